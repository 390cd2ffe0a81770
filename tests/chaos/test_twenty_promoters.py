"""Twenty processes promote at the same moment: it ends as if they had come one after the other."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.promote import follow
from regraft import tracking
from regraft.errors import Exit
from regraft.pipeline import RUN_FORMAT
from regraft.step import result_of
from regraft.store import Store
from tests import challengers
from tests.worlds import RUN, Tiny


def at_once(recipe: str, store: str, runs: list[str]) -> dict[str, int]:
    """Exit code of promote in each run: processes forked after the imports, which then cost once, and let go together.

    Runs in a process of its own, in which nothing has a thread or a connection yet.
    """
    import mlflow
    import numpy
    import pyarrow.parquet
    import scipy.stats

    assert all((mlflow.MlflowClient, numpy.__name__, pyarrow.parquet.read_table, scipy.stats.__name__))
    gate, go = os.pipe()
    children = {}
    for run in runs:
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(gate, 1)  # returns when the parent closes the other end
            sys.argv = ["promote", "--recipe", recipe, "--store", store, "--run", run]
            code = Exit.BUG
            try:
                runpy.run_module("components.promote", run_name="__main__")
            except SystemExit as end:
                code = Exit(end.code or 0)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children[child] = run
    os.close(go)
    codes = {}
    for _ in runs:
        child, status = os.wait()
        codes[children[child]] = os.waitstatus_to_exitcode(status)
    return codes


if __name__ == "__main__":
    print(json.dumps(at_once(sys.argv[1], sys.argv[2], sys.argv[3:])))


def promoted(tiny: Tiny, runs: list[str], log: Path) -> dict[str, int]:
    """Exit codes after what a runner does: a step that ended with 75 is started again."""
    codes = dict.fromkeys(runs, int(Exit.TEMPORARY))
    for _ in range(5):
        again = [run for run in runs if codes[run] == Exit.TEMPORARY]
        if not again:
            break
        command = [sys.executable, "-m", __name__, str(tiny.recipe), tiny.store.url, *again]
        with log.open("a") as errors:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=300)
        assert done.returncode == 0, log.read_text()
        codes |= json.loads(done.stdout.splitlines()[-1])
    return codes


def copied(tiny: Tiny, url: str) -> None:
    """Moves the world's store to another URL, with the results that challengers share."""
    there = Store(url, "tiny")
    for step in ("validate", "finetune"):
        manifest = result_of(tiny.store, step, tiny.pointer(step)["identity"])
        with tempfile.TemporaryDirectory() as folder:
            tiny.store.fetch(f"{step}/{manifest.identity}", manifest, Path(folder))
            kept = {"format", "recipe", "attempt", "outputs", "views"}
            there.publish(f"{step}/{manifest.identity}", Path(folder), manifest.model_dump(exclude=kept))
        there.replace(f"runs/{RUN}/{step}.json", tiny.store.read(f"runs/{RUN}/{step}.json"))
    tiny.store = there


@pytest.mark.slow
@pytest.mark.parametrize(("where", "count"), [("disk", 20), ("bucket", 5)])
def test_twenty_promoters_leave_one_champion_the_best_of_them(
    tiny: Tiny, where: str, count: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.environment["MLFLOW_TRACKING_URI"])
    client: Any = tracking.connect()
    for registered in client.search_registered_models():
        client.delete_registered_model(registered.name)
    if where == "bucket":
        copied(tiny, request.getfixturevalue("s3"))
    first = datetime(2026, 1, 1, 3)
    runs = [(first + timedelta(days=i)).strftime(RUN_FORMAT) for i in range(count)]
    shares = [0.50 + 0.02 * i for i in range(1, count)]
    random.Random(7).shuffle(shares)
    shares.insert(0, 0.50)  # the first is the worst, so that one of the others becomes champion
    share = {}
    for run, right in zip(runs, shares, strict=True):
        share[challengers.make(tiny, f"{where} {right:.2f}", run=run, right=right).identity] = right

    # the first is handed over to deploy, whatever else is there; the others meet it in the ledger
    codes = promoted(tiny, runs[:1], tmp_path / "log")
    tiny.served(runs[0])
    codes |= promoted(tiny, runs[1:], tmp_path / "log")

    log = (tmp_path / "log").read_text()
    entries = tiny.ledger.entries()
    assert set(codes.values()) <= {Exit.DONE, Exit.REFUSED}, log
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert len({entry.model for entry in entries}) == len(entries), "nobody twice"
    assert {entry.run for entry in entries} == {run for run, code in codes.items() if code == Exit.DONE}
    assert share[entries[-1].model] == max(shares), "the best by the gate's rule"
    order = [share[entry.model] for entry in entries]
    assert order == sorted(order), "and each was better than the one before, so each was decided against it"
    assert all("Decided again" in entry.reason for entry in entries[1:])
    assert "there is no champion yet" in entries[0].reason
    versions = {v.tags[tracking.IDENTITY_TAG]: int(v.version) for v in client.search_model_versions("name = 'tiny'")}
    assert all(versions[entry.model] == entry.version for entry in entries), "each has its own version"
    assert client.get_model_version_by_alias("tiny", "champion").version == str(entries[-1].version)
    assert follow.differences(client, tiny.ledger, "tiny") == []
    assert tiny.store.names("ledger") == [*(f"{i + 1:08}.json" for i in range(len(entries))), "index.json"]
