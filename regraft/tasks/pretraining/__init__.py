"""Documents in, how probable they are out: a language model that goes on learning from texts without labels."""

from regraft.causal import for_training, merged, untrained
from regraft.tasks.pretraining.lesson import CHOSEN_BY, card, lesson
from regraft.tasks.pretraining.metrics import METRICS, broken, comparable, own, tally
from regraft.tasks.pretraining.model import answers, load
from regraft.tasks.pretraining.package import logged
from regraft.tasks.pretraining.recipe import Recipe
from regraft.tasks.pretraining.report import examples, figures, predictions
from regraft.tasks.pretraining.rows import ROWS, checks, counts, known, named, rows, shown

READS = ()

__all__ = [
    "CHOSEN_BY",
    "METRICS",
    "READS",
    "ROWS",
    "Recipe",
    "answers",
    "broken",
    "card",
    "checks",
    "comparable",
    "counts",
    "examples",
    "figures",
    "for_training",
    "known",
    "lesson",
    "load",
    "logged",
    "merged",
    "named",
    "own",
    "predictions",
    "rows",
    "shown",
    "tally",
    "untrained",
]
