"""Text in, one label of a fixed set out, with the probability of each."""

from regraft.encoders import asked, request
from regraft.tasks.text_classification.lesson import card, lesson
from regraft.tasks.text_classification.metrics import METRICS, broken, comparable, own, scored, tally
from regraft.tasks.text_classification.model import answers, for_training, load, logits
from regraft.tasks.text_classification.package import logged
from regraft.tasks.text_classification.recipe import Recipe
from regraft.tasks.text_classification.report import examples, figures, predictions
from regraft.tasks.text_classification.rows import ROWS, checks, counts, known, named, rows, seen_by_digest, shown
from regraft.tasks.text_classification.served import (
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
    "logits",
    "named",
    "numbers",
    "own",
    "predictions",
    "read",
    "request",
    "rows",
    "said",
    "scored",
    "seen_by_digest",
    "short",
    "shown",
    "tally",
    "tensors",
]
