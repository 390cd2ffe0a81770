"""The model as MLflow keeps it: a pipeline of transformers that gives entities, each with its place and score.

`mlflow.transformers.load_model` gives that pipeline. `mlflow.pyfunc` puts into words only the labels of what the
pipeline finds, and fails where it finds nothing: so what is no entity is found as well, as O.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from regraft.encoders import EXAMPLE, Encoder
from regraft.tasks.token_classification.model import scored
from regraft.tasks.token_classification.recipe import Recipe, tags


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
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_max_length = encoder.max_length  # where the pipeline cuts; it takes no word of a caller's
    arguments = {
        "transformers_model": pipeline(recipe.task, model=encoder.model, tokenizer=tokenizer),
        "task": recipe.task,
        "input_example": list(EXAMPLE),
        "signature": ModelSignature(inputs=Schema([ColSpec("string")]), outputs=Schema([ColSpec("string")])),
        "model_config": {"aggregation_strategy": "simple", "ignore_labels": []},
    }
    proof = partial(_otherwise, recipe, encoder, texts, _logits(encoder, texts))
    return partial(mlflow.transformers.log_model, **arguments), proof


def _logits(encoder: Encoder, texts: Sequence[str]) -> list[Any]:
    """Logits of each text, shape (tokens, tags), asked alone as a pipeline does: nothing is padded."""
    return [logits[0] for text in texts for _, _, logits in scored(encoder, [text])]


def _otherwise(recipe: Recipe, encoder: Encoder, texts: list[str], expected: list[Any], uri: str) -> str | None:
    import mlflow
    import numpy as np

    loaded = mlflow.transformers.load_model(uri, return_type="components")
    actual = _logits(Encoder(loaded["model"].eval(), loaded["tokenizer"], encoder.max_length), texts)
    if [part.shape for part in actual] != [part.shape for part in expected]:
        return "MLflow loads the model back with another tokenizer or other tags"
    worst = max(float(np.abs(one - other).max()) for one, other in zip(actual, expected, strict=True))
    if worst > 0:
        return f"MLflow loads the model back with other logits, by up to {worst:.3g}"
    special = [encodings[0].special_tokens_mask for text in texts for _, encodings, _ in scored(encoder, [text])]
    named = [_named(tags(recipe), *each) for each in zip(expected, special, strict=True)]
    answers = [str(answer) for answer in mlflow.pyfunc.load_model(uri).predict(texts)]
    if answers != named:
        return f"mlflow.pyfunc answers otherwise: {json.dumps(answers[:3])} instead of {json.dumps(named[:3])}"
    return None


def _named(outputs: Sequence[str], logits: Any, special: Sequence[int]) -> str:
    """The labels of a text's tokens as the pipeline puts them together: one for each stretch of one label."""
    labels: list[str] = []
    for tag, skipped in zip(logits.argmax(axis=1), special, strict=True):
        label = outputs[tag].split("-", 1)[-1]
        if not skipped and (outputs[tag].startswith("B-") or labels[-1:] != [label]):
            labels.append(label)
    return ",".join(labels)
