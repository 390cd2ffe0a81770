"""The model as MLflow keeps it: in safetensors, proven to give the same answers when loaded back.

Whoever may write to MLflow may set any tag and replace any file there, so what was proven stands in the store: the id
of the logged model, and the digest of its files.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel

from regraft import base_model, bases, tasks
from regraft.digests import digests, sha256
from regraft.errors import NotFound, RegraftError
from regraft.manifest import Manifest
from regraft.step import Work
from regraft.store import Store
from regraft.tracking import IDENTITY_TAG

PROBES = 16
"""Holdout rows that the loaded model must answer as the original does."""


def logged_model(context: Work, client: Any, *, model: Manifest, run_id: str) -> str:
    """Id of the MLflow logged model of a finetune: what a try before this made and proved, else a new one."""
    if ready := _ready(context, client, model):
        return ready
    import mlflow

    task = tasks.of(context.recipe.task)
    files, base = context.fetch(model, "adapter", "tokenizer", base_model.RECORD), context.scratch / "base"
    bases.as_trained(context.store, context.recipe, base, files, model)
    trained = task.load(context.recipe, files, base)
    log, proof = task.logged(context.recipe, trained, _probes(context))
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = log(
            name=context.recipe.name,
            pip_requirements=_requirements(),
            tags={IDENTITY_TAG: model.identity, **_base(model)},
        )
    if wrong := proof(info.model_uri):
        raise RegraftError(wrong, where=info.model_uri, state="nothing is registered and the champion is unchanged")
    logged = str(info.model_id)
    prove(context.store, model, logged=logged, files=_digest(client, logged, context.scratch))
    return logged


def _base(model: Manifest) -> dict[str, str]:
    """The tag that says which recipe's champion, by which finetune, is the base model; none where it is a place."""
    champion = model.inputs.get(bases.CHAMPION)
    return {"regraft.base_champion": champion} if champion else {}


def prove(store: Store, model: Manifest, *, logged: str, files: str) -> None:
    """Keeps in the store that a logged model is that of a finetune, and the digest of its files."""
    proof = Proof(model_digest=model.digest, logged_model=logged, files=files)
    store.replace(_key(model), proof.model_dump_json(indent=1).encode())


class Proof(BaseModel):
    """What the store keeps of the proof of a finetune."""

    model_digest: str
    logged_model: str
    """Its id in MLflow."""
    files: str
    """Digest of its files."""


def proven(store: Store, model: Manifest) -> Proof | None:
    """The proof that stands of a finetune. Raises BadInput where it is damaged."""
    try:
        proof = store.read_as(_key(model), Proof)
    except NotFound:
        return None
    return proof if proof.model_digest == model.digest else None


def _key(model: Manifest) -> str:
    return f"proven/{model.identity}.json"


def _ready(context: Work, client: Any, model: Manifest) -> str | None:
    """Id of a logged model of that finetune that was proven before, if its files are still what they were."""
    from mlflow.exceptions import MlflowException

    proof = proven(context.store, model)
    if proof is None:
        return None
    with suppress(MlflowException):  # it is gone; a server that is away is noticed by whatever comes next
        if _digest(client, proof.logged_model, context.scratch) == proof.files:
            return proof.logged_model
    return None


def _digest(client: Any, logged: str, scratch: Path) -> str:
    """Digest of the files of a logged model, as MLflow gives them out."""
    import mlflow

    # by its location: of a model's own address it puts a file of its own beside what it gives out
    location = client.get_logged_model(logged).artifact_location
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return sha256(digests(Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=folder))))


def _requirements() -> list[str]:
    """What a reader of the model has to install."""
    import mlflow

    others = (f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers"))
    return [f"mlflow=={mlflow.__version__}", *others]  # only its part mlflow-skinny may be installed here


def _probes(context: Work) -> Any:
    data = context.fetch(context.result("validate"), "holdout.parquet")
    return pq.read_table(data / "holdout.parquet").slice(0, PROBES)
