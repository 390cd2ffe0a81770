"""The model as MLflow keeps it: texts in, how probable each is out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regraft.causal import Causal, package
from regraft.tasks.pretraining.model import answers
from regraft.tasks.pretraining.recipe import Recipe

PROBES = 8
"""Documents that a model which was loaded back has to find as probable as before: they are long, and few prove it."""


def said(model: Causal, inputs: list[str]) -> list[dict[str, float]]:
    """Of each text `log_likelihood` (natural) of its tokens and its end, how many `tokens`, and `perplexity`."""
    import numpy as np
    import pyarrow as pa

    found = answers(model, pa.table({"text": pa.array(inputs, pa.string())}))
    pairs = zip(found["log_likelihood"].to_pylist(), found["reference_tokens"].to_pylist(), strict=True)
    return [
        {"log_likelihood": round(total, 3), "tokens": count, "perplexity": round(float(np.exp(-total / count)), 3)}
        for total, count in pairs
    ]


def logged(recipe: Recipe, model: Causal, rows: Any) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs the model in MLflow, and the proof of what was logged; see `regraft.causal.package`.

    Args:
        rows: some of the holdout.
    """
    inputs = rows["text"].to_pylist()[:PROBES]
    return package.logged(recipe, model, said=said, inputs=inputs, right=lambda _: [], example=package.EXAMPLE)
