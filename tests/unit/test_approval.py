"""An approval is a record of its own: made once, of what was looked at, and it survives who made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from regraft import approval
from regraft.errors import BadInput, Exit
from regraft.ledger import Ledger
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL

RUN = "2026-11-24T03-00"
ABOUT = {"model": "2" * 64, "evaluation": "e2" * 32}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), "reviews")


def test_of_two_approvals_the_first_stays(store: Store) -> None:
    first = approval.approve(store, **ABOUT, run=RUN, who="ana", reason="read the report")
    assert approval.approve(store, **ABOUT, run=RUN, who="bob") == first == approval.of(store, **ABOUT)
    assert len(store.names("approvals")) == 1


def test_an_approval_counts_for_the_evaluation_that_was_looked_at(store: Store) -> None:
    approval.approve(store, **ABOUT, run=RUN)
    assert approval.of(store, model="2" * 64, evaluation="another") is None
    assert approval.of(store, model="another", evaluation="e2" * 32) is None


def test_what_a_runner_was_answered_is_recorded_by_the_step_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert approval.asked(store, **ABOUT, run=RUN) is None
    monkeypatch.setenv("REGRAFT_APPROVED_BY", "ana")
    first = approval.asked(store, **ABOUT, run=RUN)
    assert first is not None
    assert first.who == "ana"
    assert approval.asked(store, **ABOUT, run=RUN) == first
    monkeypatch.delenv("REGRAFT_APPROVED_BY")
    assert approval.asked(store, **ABOUT, run=RUN) == first


def test_a_damaged_approval_is_a_clear_error(store: Store) -> None:
    approval.approve(store, **ABOUT, run=RUN)
    (name,) = store.names("approvals")
    store.replace(f"approvals/{name}", b'{"model": 1}')
    with pytest.raises(BadInput, match="is not an approval"):
        approval.of(store, **ABOUT)


def waiting(store: Store, folder: Path) -> None:
    """A champion, and a version 2 that promote has registered and left waiting for approval."""
    about = {"model": "1" * 64, "run": RUN, "evaluation": "e1" * 32}
    Ledger(store).append(None, kind="promote", version=1, reason="better", who="ana", **about)
    store.replace(f"runs/{RUN}/recipe.yaml", MINIMAL.encode())
    folder.mkdir()
    now = datetime.now(UTC)
    judged: dict[str, Any] = {"step": "evaluate", "identity": "e2" * 32, "created_at": now}
    store.publish("evaluate/" + "e2" * 32, folder, {**judged, "document": {"inputs": {"champion": "1" * 64}}})
    registered: dict[str, Any] = {"step": "promote", "identity": "f" * 64, "created_at": now, "run": RUN}
    registered |= {"refused": "any words", "refused_by": "approval", "metrics": {"version": 2}}
    store.publish("promote/" + "f" * 64, folder, {**registered, "document": {"inputs": ABOUT}})


def test_killed_between_the_record_and_the_entry_and_repeated_the_first_approval_stands(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), "reviews")
    waiting(store, tmp_path / "empty")
    words = ["promote", "reviews", "--version", "2", "--store", "store", "--reason", "read the report"]
    die = "Ledger.append = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    program = f"import os, signal, sys\nfrom regraft.ledger import Ledger\n{die}\nfrom regraft.cli import app\napp()"

    def regraft(*command: str, who: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("REGRAFT_", "MLFLOW_"))}
        environment["REGRAFT_WHO"] = who
        return subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert regraft(sys.executable, "-c", program, who="ana").returncode == -signal.SIGKILL
    record = approval.of(store, **ABOUT)
    assert record is not None
    assert (record.who, record.version, record.run, record.reason) == ("ana", 2, RUN, "read the report")
    assert len(Ledger(store).entries()) == 1
    done = regraft(str(Path(sys.executable).with_name("regraft")), who="bob")
    assert done.returncode == Exit.TEMPORARY, "the entry stands, and no server is there to follow it"
    head = Ledger(store).head()
    assert head is not None
    assert (head.version, head.model, head.reason) == (2, "2" * 64, "read the report")
    assert approval.of(store, **ABOUT) == record
