"""The command line: `regraft run | validate | status | promote | rollback | history | doctor | up | down | compile`.

Only typer is imported here: each command imports what it needs, so that `regraft --help` answers at once.
"""

from regraft.cli.app import app

__all__ = ["app"]
