"""The model as MLflow keeps it: a pipeline of transformers that gives a label and its score."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from regraft.encoders import EXAMPLE, Encoder
from regraft.tasks.text_classification.model import logits
from regraft.tasks.text_classification.recipe import Recipe

SCORE_TOLERANCE = 1e-6
"""Of a probability."""


def logged(recipe: Recipe, encoder: Encoder, rows: Any) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs the model in MLflow, and the proof of what was logged.

    It is merged into its base: MLflow reloads an adapter over a local base with random weights (mlflow issue 23761).

    The proof takes the logged model's URI, and says how what MLflow loads back answers otherwise than the model did
    before it was logged; None where it does not.

    Args:
        rows: some of the holdout.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from transformers import pipeline

    texts = rows["text"].to_pylist()
    expected = logits(encoder, texts)
    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    arguments = {
        "transformers_model": pipeline(recipe.task, model=encoder.model, tokenizer=encoder.tokenizer),
        "task": recipe.task,
        "input_example": list(EXAMPLE),
        "signature": ModelSignature(inputs=Schema([ColSpec("string")]), outputs=outputs),
        "model_config": {"truncation": True, "max_length": encoder.max_length},
    }
    return partial(mlflow.transformers.log_model, **arguments), partial(_otherwise, recipe, encoder, texts, expected)


def _otherwise(recipe: Recipe, encoder: Encoder, texts: list[str], expected: Any, uri: str) -> str | None:
    import mlflow
    import numpy as np
    from scipy.special import softmax

    loaded = mlflow.transformers.load_model(uri, return_type="components")
    actual = logits(Encoder(loaded["model"].eval(), loaded["tokenizer"], encoder.max_length), texts)
    if not np.array_equal(actual, expected):
        worst = float(np.abs(actual - expected).max())
        return f"MLflow loads the model back with other logits, by up to {worst:.3g}"
    answers = mlflow.pyfunc.load_model(uri).predict(texts)
    alone = np.concatenate([logits(encoder, [text]) for text in texts])  # as pyfunc asks: nothing is padded
    labels = [recipe.data.labels[i] for i in alone.argmax(axis=1)]
    named = [str(answer) for answer in answers["label"]]
    scores = softmax(alone, axis=1).max(axis=1)
    worst = float(np.abs(np.asarray(answers["score"], dtype=float) - scores).max())
    if named != labels or not worst <= SCORE_TOLERANCE:
        return (
            f"mlflow.pyfunc answers otherwise: {json.dumps(named[:3])} instead of {json.dumps(labels[:3])}, "
            f"scores off by up to {worst:.3g}"
        )
    return None
