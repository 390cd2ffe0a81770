"""Challengers without training: a finetune's result, scores and verdict, written as the steps before would leave them.

Nothing of them loads a model, since their scores are in the store and MLflow has a proven logged model of each.
"""

from __future__ import annotations

import io
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.promote import package
from regraft import contest, pipeline, recipe, snapshot, tracking
from regraft.digests import digests, sha256
from regraft.ledger import Entry
from regraft.manifest import Manifest
from regraft.step import Work
from tests.worlds import Tiny


def make(tiny: Tiny, name: str, *, run: str, right: float, opponent: Entry | None = None) -> Manifest:
    """A challenger that answers the first `right` (a share) of the holdout rows correctly, judged against `opponent`.

    Of two of them the one with the larger share is right wherever the other is, so it is surely no worse.
    Needs MLFLOW_TRACKING_URI, and the validate and finetune results of tiny's own run, whose data it shares.
    """
    data, trained = tiny.result("validate"), tiny.result("finetune")
    store, model = tiny.store, sha256(f"challenger {name}")
    kept = store.read(f"validate/{data.identity}/{data.attempt}/holdout.parquet")
    holdout = pq.read_table(io.BytesIO(kept))
    labels = holdout["label"].to_numpy()
    answers = np.where(np.arange(len(labels)) < right * len(labels), labels, 1 - labels)
    file = io.BytesIO()
    pq.write_table(pa.table({f"p{i}": np.where(answers == i, 0.9, 0.1) for i in (0, 1)}), file)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pq.write_table(pa.table({"input": pa.array([name], pa.string())}), scratch / "train_digests.parquet")
        manifest = _publish(tiny, "finetune", model, scratch, trained.document, run)
    kept_by = {"texts": data.outputs["holdout.parquet"].sha256, "model": manifest.digest}
    store.create(contest.kept_answers(store, "text-classification").key(model, kept_by), file.getvalue())
    _point(tiny, "validate", data.identity, run)
    _point(tiny, "finetune", model, run)
    judge(tiny, manifest, run=run, opponent=opponent)
    _log_model(tiny, manifest, run)
    return manifest


def judge(tiny: Tiny, model: Manifest, *, run: str, opponent: Entry | None) -> str:
    """Identity of an evaluation of it against that champion, as the run's evaluation; it must say `promote`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scratch").mkdir()
        context = Work(
            recipe=recipe.load(tiny.recipe),
            store=tiny.store,
            run=run,
            step=pipeline.step("evaluate"),
            scratch=Path(folder) / "scratch",
            inputs={},
            identity="",
        )
        found = contest.decide(context, model=model, opponent=opponent, data=tiny.result("validate"))
        assert found.verdict.verdict == "promote", found.verdict.sentence
        identity = sha256([model.identity, opponent.model if opponent else "none"])
        (context.out / "verdict.json").write_text(found.verdict.model_dump_json(indent=1))
        inputs = {"model": model.identity, "champion": opponent.model if opponent else "none"}
        _publish(tiny, "evaluate", identity, context.out, {"inputs": inputs}, run)
    _point(tiny, "evaluate", identity, run)
    return identity


def _publish(tiny: Tiny, step: str, identity: str, folder: Path, document: dict[str, object], run: str) -> Manifest:
    fields = {"step": step, "identity": identity, "document": document, "run": run, "created_at": datetime.now(UTC)}
    return tiny.store.publish(f"{step}/{identity}", folder, fields)


def _point(tiny: Tiny, step: str, identity: str, run: str) -> None:
    pointer = {"step": step, "run": run, "state": "done", "identity": identity, "cached": False}
    pointer["recipe_sha256"] = snapshot.keep(tiny.store, tiny.recipe.read_bytes())
    tiny.store.replace(f"runs/{run}/{step}.json", json.dumps(pointer).encode())


def _log_model(tiny: Tiny, model: Manifest, run: str) -> None:
    """What promote makes when it has proven that MLflow loads the model back."""
    client = tracking.connect()
    run_id = tracking.run_of(client, "tiny", model.identity, run)
    experiment = client.get_run(run_id).info.experiment_id
    known = f"tags.`{tracking.IDENTITY_TAG}` = '{model.identity}'"
    there = client.search_logged_models([experiment], filter_string=known)
    tags = {tracking.IDENTITY_TAG: model.identity}
    logged = there[0] if there else client.create_logged_model(experiment, "tiny", source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "MLmodel").write_text(f"model_uuid: {logged.model_id}\n")
        if not there:
            client.log_model_artifacts(logged.model_id, folder)
        package.prove(tiny.store, model, logged=logged.model_id, files=sha256(digests(Path(folder))))
