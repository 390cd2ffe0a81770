"""`python -m components.promote`: registers the challenger and makes it champion."""

from components.promote import inputs, verify, work
from regraft.step import main

if __name__ == "__main__":
    main("promote", inputs=inputs, work=work, verify=verify)
