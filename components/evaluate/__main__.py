"""`python -m components.evaluate`: scores challenger and champion and gives a verdict."""

from components.evaluate import inputs, work
from regraft.step import main

if __name__ == "__main__":
    main("evaluate", inputs=inputs, work=work)
