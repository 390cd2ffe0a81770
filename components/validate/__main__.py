"""`python -m components.validate`: checks fresh data against the contract and freezes it."""

from components.validate import inputs, work
from regraft.step import main

if __name__ == "__main__":
    main("validate", inputs=inputs, work=work)
