"""A store that an earlier regraft wrote keeps working.

old_store.tar.xz was made by commit 0483eda (2026-11-28): three runs of a tiny model of random weights, two champions,
and a version 3 that waits for approval; with the base model, the data and the recipe of its last run. Reports, plots
and built version directories were left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import replica, serve
from regraft import approval, snapshot, summary
from regraft.errors import Exit
from regraft.ledger import Ledger
from regraft.store import Store

FIRST, SECOND, WAITING = "2026-11-23T03-00", "2026-12-21T03-00", "2026-12-28T03-00"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder that the archive was made of."""
    with tarfile.open(Path(__file__).with_name("old_store.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def triton(old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a Triton server without a model."""
    (old / "models").mkdir()
    (old / "scratch").mkdir()
    with serve.running(repository=old / "models", log=old / "triton.log") as server:
        monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", str(old / "models"))
        monkeypatch.setenv("REGRAFT_TRITON_URLS", server.address)
        monkeypatch.setenv("REGRAFT_SCRATCH", str(old / "scratch"))
        monkeypatch.setenv("REGRAFT_TRITONSERVER", str(serve.home()))
        yield server.address


def call(folder: Path, module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module] if module != "regraft" else [str(Path(sys.executable).with_name(module))]
    command += words
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)


def test_its_ledger_and_its_recipes_are_read(old: Path) -> None:
    store = Store(str(old / "store"), "tiny")
    ledger = Ledger(store)
    head, previous = ledger.head(), ledger.previous()
    assert head is not None
    assert previous is not None
    assert [entry.version for entry in ledger.entries()] == [1, 2]
    assert (head.version, head.run, previous.version, previous.run) == (2, SECOND, 1, FIRST)
    assert ledger.opponent(head.model) == previous
    assert ledger.before(WAITING) == head
    assert snapshot.of_run(store, FIRST).promotion == "automatic"
    assert snapshot.of_run(store, WAITING).promotion == "approval"
    assert snapshot.of_champion(store, head.model, head.run).data.labels == ("negative", "positive")
    waiting = summary.steps(store, WAITING, None)[3]
    assert (waiting["state"], waiting["refused_by"], waiting["recipe_sha256"]) == ("refused", "approval", None)


def test_what_its_models_were_trained_with_is_told_by_their_manifests(old: Path) -> None:
    """There each step of a run replaced the recipe, so that it may be that of another model."""
    store = Store(str(old / "store"), "tiny")
    head = Ledger(store).head()
    assert head is not None
    now = store.read(f"runs/{SECOND}/recipe.yaml").replace(b"max_length: 16", b"max_length: 8")
    store.replace(f"runs/{SECOND}/recipe.yaml", now)
    assert snapshot.of_run(store, SECOND).training.max_length == 8
    assert snapshot.of_model(store, head.model, SECOND).training.max_length == 16
    assert snapshot.of_champion(store, head.model, SECOND).training.max_length == 16


@pytest.mark.slow
def test_a_rollback_to_one_of_its_versions_is_served(old: Path, triton: str) -> None:
    ledger = Ledger(Store(str(old / "store"), "tiny"))
    head, previous = ledger.head(), ledger.previous()
    assert head is not None
    assert previous is not None
    ledger.again(head, previous, kind="rollback", reason="test")
    done = call(old, "components.deploy.follow", "--recipe", "tiny.yaml", "--store", "store", "--repair")
    assert done.returncode == Exit.DONE, done.stderr
    assert replica.ready(triton, "tiny") == {1}


@pytest.mark.slow
def test_what_it_lets_wait_can_be_approved(old: Path, triton: str, mlflow_server: str) -> None:
    words = ["promote", "tiny", "--version", "3", "--store", "store", "--json"]
    done = call(old, "regraft", *words, MLFLOW_TRACKING_URI=mlflow_server)
    said = json.loads(done.stdout)
    assert (said["champion"]["version"], said["champion"]["run"]) == (3, WAITING), done.stderr
    assert said["follow"]["Triton"]["agrees"]
    entry = said["champion"]
    record = approval.of(Store(str(old / "store"), "tiny"), model=entry["model"], evaluation=entry["evaluation"])
    assert record is not None
    assert (record.version, record.who, record.run) == (3, entry["who"], WAITING)
    assert replica.ready(triton, "tiny") == {3}


@pytest.mark.slow
def test_its_caches_miss_once(old: Path) -> None:
    words = ["--recipe", "tiny.yaml", "--store", "store", "--run", WAITING]
    caches = []
    for _ in range(2):
        done = call(old, "components.validate", *words)
        assert done.returncode == Exit.DONE, done.stderr
        caches.append(json.loads((old / f"store/tiny/runs/{WAITING}/validate.json").read_text())["cached"])
    assert caches[1] is True
