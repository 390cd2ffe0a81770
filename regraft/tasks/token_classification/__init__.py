"""Text in, entities out: spans with a label and a score."""

from regraft.encoders import asked, request
from regraft.tasks.token_classification.lesson import card, lesson
from regraft.tasks.token_classification.metrics import METRICS, broken, comparable, own, tally
from regraft.tasks.token_classification.model import answers, for_training, load
from regraft.tasks.token_classification.package import logged
from regraft.tasks.token_classification.recipe import Recipe
from regraft.tasks.token_classification.report import examples, figures, predictions
from regraft.tasks.token_classification.rows import ROWS, checks, counts, known, named, rows, shown
from regraft.tasks.token_classification.served import (
    COMPARED,
    build,
    distance,
    flaw,
    joined,
    numbers,
    read,
    said,
    short,
    tensors,
)

READS = ("data.labels",)

__all__ = [
    "COMPARED",
    "METRICS",
    "READS",
    "ROWS",
    "Recipe",
    "answers",
    "asked",
    "broken",
    "build",
    "card",
    "checks",
    "comparable",
    "counts",
    "distance",
    "examples",
    "figures",
    "flaw",
    "for_training",
    "joined",
    "known",
    "lesson",
    "load",
    "logged",
    "named",
    "numbers",
    "own",
    "predictions",
    "read",
    "request",
    "rows",
    "said",
    "short",
    "shown",
    "tally",
    "tensors",
]
