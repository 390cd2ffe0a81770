"""The model as MLflow keeps it: merged weights in safetensors, proven to give the same logits when loaded back."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from regraft import tasks
from regraft.errors import RegraftError
from regraft.step import Context
from regraft.store import Manifest
from regraft.tracking import IDENTITY_TAG

PROBES = 16
"""Holdout rows that the loaded model must answer as the original does."""
SCORE_TOLERANCE = 1e-6
"""Of a probability."""


def logged_model(context: Context, client: Any, *, model: Manifest, run_id: str) -> str:
    """Id of the MLflow logged model of a finetune: one that a try before this made and proved, else a new one.

    Merged into its base, since MLflow reloads an adapter over a local base with random weights (mlflow issue 23761).
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    if ready := _ready(client, experiment_id, model.identity):
        return ready
    import mlflow
    from transformers import pipeline

    task = tasks.of(context.recipe.task)
    classifier = task.load(context.recipe, context.fetch(model, "adapter", "tokenizer"), context.scratch / "base")
    texts = _probes(context)
    expected = task.logits(classifier, texts)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = mlflow.transformers.log_model(
            pipeline(context.recipe.task, model=classifier.model, tokenizer=classifier.tokenizer),
            name=context.recipe.name,
            task=context.recipe.task,
            input_example=texts[:2],
            signature=_signature(context),
            model_config={"truncation": True, "max_length": classifier.max_length},
            pip_requirements=_requirements(),
            tags={IDENTITY_TAG: model.identity},
        )
    _prove(context, info.model_uri, texts, expected, classifier)
    client.set_logged_model_tags(info.model_id, {"regraft.proven": "yes"})
    return str(info.model_id)


def _ready(client: Any, experiment_id: str, identity: str) -> str | None:
    """Id of a logged model of that finetune that was proven before."""
    found = client.search_logged_models(
        [experiment_id], filter_string=f"tags.`{IDENTITY_TAG}` = '{identity}' AND tags.`regraft.proven` = 'yes'"
    )
    return str(found[0].model_id) if found else None


def _requirements() -> list[str]:
    """What a reader of the model has to install."""
    import mlflow

    others = (f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers"))
    return [f"mlflow=={mlflow.__version__}", *others]  # only its part mlflow-skinny may be installed here


def _signature(context: Context) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema([ColSpec("string", "label"), ColSpec("double", "score")]),
    )


def _probes(context: Context) -> list[str]:
    data = context.fetch(context.result("validate"), "holdout.parquet")
    return list(pq.read_table(data / "holdout.parquet")["text"].slice(0, PROBES).to_pylist())


def _prove(context: Context, uri: str, texts: list[str], expected: Any, classifier: Any) -> None:
    """Loads the model back through mlflow.transformers and mlflow.pyfunc and compares.

    Raises:
        RegraftError: an answer differs; the model is not registered.
    """
    import mlflow
    from scipy.special import softmax

    task = tasks.of(context.recipe.task)
    loaded = mlflow.transformers.load_model(uri, return_type="components")
    reloaded = type(classifier)(loaded["model"].eval(), loaded["tokenizer"], classifier.max_length)
    actual = task.logits(reloaded, texts)
    if not np.array_equal(actual, expected):
        worst = float(np.abs(actual - expected).max())
        raise RegraftError(
            f"MLflow loads the model back with other logits, by up to {worst:.3g}",
            where=uri,
            state="nothing is registered and the champion is unchanged",
        )
    answers = mlflow.pyfunc.load_model(uri).predict(texts)
    alone = np.concatenate([task.logits(classifier, [text]) for text in texts])  # as pyfunc asks: nothing is padded
    labels = [context.recipe.data.labels[i] for i in alone.argmax(axis=1)]
    named = [str(answer) for answer in answers["label"]]
    scores = softmax(alone, axis=1).max(axis=1)
    worst = float(np.abs(np.asarray(answers["score"], dtype=float) - scores).max())
    if named != labels or not worst <= SCORE_TOLERANCE:
        raise RegraftError(
            f"mlflow.pyfunc answers otherwise: {json.dumps(named[:3])} instead of {json.dumps(labels[:3])}, "
            f"scores off by up to {worst:.3g}",
            where=uri,
            state="nothing is registered and the champion is unchanged",
        )
