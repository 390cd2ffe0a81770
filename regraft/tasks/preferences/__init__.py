"""Which of two answers people prefer: a language model with an adapter that finds it the more probable."""

from regraft.causal import merged, tokenizer, untrained
from regraft.causal.assistant import for_training, load
from regraft.tasks.preferences.lesson import CHOSEN_BY, card, lesson, mask
from regraft.tasks.preferences.metrics import LIBRARIES, METRICS, broken, comparable, own, tally
from regraft.tasks.preferences.model import answers, logged
from regraft.tasks.preferences.recipe import Recipe
from regraft.tasks.preferences.report import examples, figures, predictions
from regraft.tasks.preferences.rows import ROWS, checks, counts, known, named, rows, shown

READS = ("system", "chat_template", "generation", "training.max_length")

__all__ = [
    "CHOSEN_BY",
    "LIBRARIES",
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
    "mask",
    "merged",
    "named",
    "own",
    "predictions",
    "rows",
    "shown",
    "tally",
    "tokenizer",
    "untrained",
]
