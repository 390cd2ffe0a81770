"""The model as MLflow keeps it: texts in, summaries out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from regraft.causal import Causal, answering, package
from regraft.tasks.summarization.model import asks, right
from regraft.tasks.summarization.recipe import Recipe


def said(model: Causal, inputs: list[str]) -> list[str]:
    """What a model answers to documents."""
    return [answer.text for answer in answering.generated(model, asks(model, inputs))]


def logged(recipe: Recipe, model: Causal, rows: Any) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs the model in MLflow, and the proof of what was logged; see `regraft.causal.package`.

    Args:
        rows: some of the holdout.
    """
    inputs, of_rows = rows["text"].to_pylist(), functools.partial(right, rows=rows)
    return package.logged(recipe, model, said=said, inputs=inputs, right=of_rows, example=package.EXAMPLE)
