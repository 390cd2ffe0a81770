"""Conversations in, the assistant's next turn out: a language model with an adapter."""

from regraft.causal import merged, tokenizer, untrained
from regraft.causal.assistant import card, for_training, load, logged
from regraft.causal.judge import compared
from regraft.causal.served import COMPARED, INSTEAD, STREAMS, distance, flaw, joined, numbers, read, short
from regraft.tasks.chat.lesson import CHOSEN_BY, lesson, mask
from regraft.tasks.chat.metrics import LIBRARIES, METRICS, broken, comparable, own, tally
from regraft.tasks.chat.model import answers
from regraft.tasks.chat.probes import probed, probes, prompted
from regraft.tasks.chat.recipe import Recipe
from regraft.tasks.chat.report import examples, figures, judged, predictions
from regraft.tasks.chat.rows import ROWS, checks, counts, known, named, rows, shown
from regraft.tasks.chat.served import asked, build, request, said, tensors

READS = ("system", "chat_template", "generation", "training.max_length")

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
    "probed",
    "probes",
    "prompted",
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
