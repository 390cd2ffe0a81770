"""Who can write to the bucket, to MLflow or to the model volume does not become who decides what is served.

Files are replaced together with the digests that the manifest, or serving.json, has of them: all that can be done
without the ledger, which names what became champion.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from components.deploy.repository import Repository, digest
from components.promote import package
from regraft import tracking
from regraft.cli import app
from regraft.errors import BadInput, Exit
from regraft.ledger import Entry
from regraft.manifest import Manifest
from tests import challengers, champions
from tests.chaos.test_rollout import Stage, staged
from tests.contract.conftest import promote as promote
from tests.contract.promoting import Promote, champion, versions
from tests.worlds import LATER, Tiny


def replaced(tiny: Tiny, model: Manifest, name: str = "train_digests.parquet") -> None:
    """Other bytes for a file of a finetune, and in its manifest the digest of these."""
    place = f"finetune/{model.identity}"
    other = io.BytesIO()
    pq.write_table(pa.table({"input": pa.array(["another"], pa.string())}), other)
    data = other.getvalue()
    tiny.store.replace(f"{place}/{model.attempt}/{name}", data)
    document = tiny.store.read_json(f"{place}/manifest.json")
    document["outputs"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    tiny.store.replace(f"{place}/manifest.json", json.dumps(document).encode())


def served(tiny: Tiny, promote: Promote, name: str) -> tuple[Manifest, Entry]:
    """A first champion that promote registered, and its entry as deploy writes it."""
    model = challengers.make(tiny, name, run="2026-11-28T03-00", right=0.5)
    assert promote("2026-11-28T03-00") == Exit.DONE
    return model, tiny.served("2026-11-28T03-00")


def test_a_model_that_was_replaced_after_its_verdict_is_not_promoted(
    tiny: Tiny, client: Any, promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    first = champion(tiny, client, "first 0", 0.5, "2026-11-28T03-00")
    second = challengers.make(tiny, "second 0", run=LATER, right=0.9, opponent=first)
    replaced(tiny, second)
    assert promote(LATER) == Exit.BAD_INPUT
    assert "is not the model that was judged" in capsys.readouterr().err
    assert tiny.ledger.entries() == [first]
    assert versions(client) == [1]


def test_a_challenger_is_not_compared_with_a_champion_that_was_replaced(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    model, first = served(tiny, promote, "first 1")
    assert (first.model_digest, len(first.verdict_digest or "")) == (model.digest, 64)
    replaced(tiny, model)
    with pytest.raises(BadInput, match="is not what version 1 became champion by"):
        challengers.make(tiny, "second 1", run=LATER, right=0.9, opponent=first)


def test_a_champion_that_was_replaced_is_not_gone_back_to_and_the_doctor_names_it(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    model, first = served(tiny, promote, "first 2")
    challengers.make(tiny, "second 2", run=LATER, right=0.9, opponent=first)
    assert promote(LATER) == Exit.DONE
    entries = tiny.ledger.entries()
    assert [entry.version for entry in entries] == [1, 2]
    replaced(tiny, model)
    for command in (["rollback", "tiny"], ["promote", "tiny", "--version", "1"]):
        done = CliRunner().invoke(app, [*command, "--store", tiny.store.url])
        assert done.exit_code == Exit.BAD_INPUT
        assert "is not what version 1 became champion by" in done.output
    assert tiny.ledger.entries() == entries
    said = CliRunner().invoke(app, ["doctor", "tiny", "--store", tiny.store.url, "--json"])
    checks = {check["check"]: check for check in json.loads(said.stdout[said.stdout.index("{") :])["tiny"]}
    assert not checks["store"]["healthy"]
    assert "version 1" in checks["store"]["says"]


def test_a_tag_in_mlflow_makes_no_model_a_proven_one_and_no_version_ours(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    first = champion(tiny, client, "first 3", 0.5, "2026-11-28T03-00")
    model = challengers.make(tiny, "second 3", run=LATER, right=0.9, opponent=first)
    run_id = tracking.run_of(client, "tiny", model.identity, LATER)
    experiment = client.get_run(run_id).info.experiment_id
    tags = {tracking.IDENTITY_TAG: model.identity, "regraft.proven": "yes"}
    forged = client.create_logged_model(experiment, name="tiny", source_run_id=run_id, tags=tags)
    client.create_model_version("tiny", source=f"models:/{forged.model_id}", model_id=forged.model_id, tags=tags)
    assert promote(LATER) == Exit.DONE
    entry = tiny.ledger.entries()[-1]
    assert entry.version == 3, "the forged one is version 2"
    known = package.proven(tiny.store, model)
    assert known is not None
    assert client.get_model_version("tiny", "3").source == f"models:/{known.logged_model}"
    assert tracking.IDENTITY_TAG not in client.get_model_version("tiny", "2").tags


def test_files_that_were_replaced_in_mlflow_are_not_registered(
    tiny: Tiny, client: Any, promote: Promote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = champion(tiny, client, "first 4", 0.5, "2026-11-28T03-00")
    model = challengers.make(tiny, "second 4", run=LATER, right=0.9, opponent=first)
    known = package.proven(tiny.store, model)
    assert known is not None
    assert package._digest(client, known.logged_model, tmp_path) == known.files
    (tmp_path / "MLmodel").write_text("another")
    client.log_model_artifacts(known.logged_model, str(tmp_path))

    class Anew(Exception): ...

    def load(*_: Any) -> None:
        raise Anew

    from regraft.tasks import text_classification

    monkeypatch.setattr(text_classification, "load", load)  # what it does to log and prove the model anew
    assert promote(LATER) == Exit.BUG
    assert tiny.ledger.entries() == [first]
    assert versions(client) == [1]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    champions.recipe_file(tmp_path, champions.base(tmp_path / "base"))
    (tmp_path / "models").mkdir()
    with staged(tmp_path, monkeypatch) as stage:
        yield stage


@pytest.mark.slow
def test_a_version_directory_that_was_replaced_is_built_anew_before_it_is_loaded(stage: Stage, tmp_path: Path) -> None:
    for version in (1, 2):
        entry = stage.promote(version)
        assert stage.deploy().refused is None
    repository, previous = Repository(tmp_path / "models", "tiny"), stage.ledger.previous()
    assert previous is not None
    folder, ran = repository.directory(1), tmp_path / "ran"
    program = folder / "model.py"
    honest = program.read_text()
    program.write_text(f"open({str(ran)!r}, 'w').close()\n{honest}")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    serving = json.loads((folder / "serving.json").read_text())
    serving["digest"] = digest(serving, folder)
    (folder / "serving.json").write_text(json.dumps(serving))
    assert repository.whole(1), "by what it says itself"
    stage.ledger.again(entry, previous, kind="rollback", reason="test")
    assert stage.deploy().refused is None
    assert stage.serving() == [{1}, {1}]
    assert program.read_text() == honest
    assert not ran.exists()


def test_a_file_that_was_changed_added_or_left_in_a_version_directory_shows(tmp_path: Path) -> None:
    repository = Repository(tmp_path, "tiny")
    folder = repository.directory(1)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("pass")
    about = {"model": "m", "version": 1}
    (folder / "serving.json").write_text(json.dumps({**about, "digest": digest(about, folder)}))
    assert repository.whole(1)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/model.cpython-311.pyc").write_bytes(b"")
    assert repository.whole(1)
    assert not (folder / "__pycache__").exists(), "Python would run what lies there in place of model.py"
    for name in ("model.py", "more.py", "torch/config.json"):
        shutil.copytree(folder, tmp_path / "kept")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("other")
        assert not repository.whole(1), name
        shutil.rmtree(folder)
        (tmp_path / "kept").rename(folder)
    (folder / "serving.json").write_text(re.sub('"m"', '"other"', (folder / "serving.json").read_text()))
    assert not repository.whole(1)
