"""A document in, a summary out: a language model with an adapter."""

from regraft.causal import for_training, merged, tokenizer, untrained
from regraft.causal.judge import compared
from regraft.causal.served import COMPARED, INSTEAD, STREAMS, distance, flaw, joined, numbers, read, short
from regraft.tasks.summarization.lesson import CHOSEN_BY, card, lesson, mask
from regraft.tasks.summarization.metrics import LIBRARIES, METRICS, broken, comparable, own, tally
from regraft.tasks.summarization.model import answers, load
from regraft.tasks.summarization.package import logged
from regraft.tasks.summarization.recipe import Recipe
from regraft.tasks.summarization.report import examples, figures, judged, predictions
from regraft.tasks.summarization.rows import ROWS, checks, counts, known, named, rows, shown
from regraft.tasks.summarization.served import asked, build, request, said, tensors

READS = ("prompt", "generation", "training.max_length", "data.language")

__all__ = [
    "CHOSEN_BY",
    "COMPARED",
    "INSTEAD",
    "LIBRARIES",
    "METRICS",
    "READS",
    "ROWS",
    "STREAMS",
    "Recipe",
    "answers",
    "asked",
    "broken",
    "build",
    "card",
    "checks",
    "comparable",
    "compared",
    "counts",
    "distance",
    "examples",
    "figures",
    "flaw",
    "for_training",
    "joined",
    "judged",
    "known",
    "lesson",
    "load",
    "logged",
    "mask",
    "merged",
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
    "tokenizer",
    "untrained",
]
