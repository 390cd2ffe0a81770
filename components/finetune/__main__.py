"""`python -m components.finetune`: trains the challenger."""

from components.finetune import inputs, work
from regraft.step import main

if __name__ == "__main__":
    main("finetune", inputs=inputs, work=work)
