"""The command line: `regraft run | status | history | promote | rollback | doctor | up | down | check | compile`.

Only typer is imported here: each command imports what it needs, so that `regraft --help` answers at once.
"""

from regraft.cli.app import app

# In the order of the help text; each adds its commands.
from regraft.cli import runs, champions, laptop, recipes  # isort: skip

__all__ = ["app", "champions", "laptop", "recipes", "runs"]
