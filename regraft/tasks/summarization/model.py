"""A document in, a summary out: how a document is asked about, and what a model answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regraft import causal
from regraft.causal import Causal, answering, prompts
from regraft.causal.asking import Asker
from regraft.causal.prompts import Encoded
from regraft.tasks.summarization.recipe import Recipe


def load(recipe: Recipe, files: Path, folder: Path) -> Causal:
    """The model of a finetune, from the files it published."""
    return causal.load(recipe, files, folder, told=recipe.prompt)


def asker(model: Causal) -> Asker:
    """What asks a model."""
    return Asker(model.tokenizer, str(model.told), **model.room)


def asks(model: Causal, texts: Iterable[str]) -> list[list[int]]:
    """Tokens of documents, as a model is asked."""
    return [*map(asker(model).tokens, texts)]


def right(model: Causal, rows: Any) -> list[Encoded]:
    """Tokens of documents with the summaries that are right."""
    ask, pairs = asker(model), zip(rows["text"].to_pylist(), rows["summary"].to_pylist(), strict=True)
    return [prompts.encoded(model.tokenizer, ask.answered(*pair)) for pair in pairs]


def answers(model: Causal, rows: Any) -> Any:
    """What a model says to each row, as `answering.table`."""
    return answering.table(model, asks(model, rows["text"].to_pylist()), right(model, rows))
