"""The real components, MLflow and Triton below a real Airflow scheduler: a triggered DAG ends with a served model."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import airflow as launcher
from regraft import stack
from regraft.runners import local
from tests.airflow.server import Airflow
from tests.kubeflow.test_served import Silent
from tests.worlds import RUN, Tiny, identities

pytestmark = pytest.mark.slow


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The laptop stack in a folder of its own; gives the variables that lead to it."""
    if not launcher.AIRFLOW.exists():
        pytest.skip("Airflow's environment is not there: make airflow")
    for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS", "REGRAFT_MODEL_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(launcher.ROOT)
    home = tmp_path / "home"
    try:
        stack.up(home=home, say=print)
        yield stack.environment(home)
    finally:
        stack.down(home=home, say=print)


@pytest.mark.parametrize("task", ["token-classification"])
def test_a_triggered_dag_ends_with_a_served_model_and_the_local_runner_finds_it_done(
    task: str, tmp_path: Path, tiny_base: Path, servers: dict[str, str]
) -> None:
    tiny = Tiny(tmp_path / "tiny", tiny_base, task=task)
    settings = {
        **servers,
        "REGRAFT_RECIPES": str(tiny.folder),
        "REGRAFT_STORE": tiny.store.url,
        "REGRAFT_PYTHON": sys.executable,
    }
    airflow = Airflow(tmp_path / "airflow", settings, launcher.ROOT)
    try:
        airflow.start()
        run = airflow.trigger("tiny", {"run": RUN})
        states = airflow.finished("tiny", run, 400)
        assert set(states.values()) == {"success"}, states
        task = f"/dags/tiny/dagRuns/{run}/taskInstances"
        link = airflow.call("GET", f"{task}/finetune/links")["extra_links"]["MLflow run"]
        assert "/runs/" in link, "the link leads to the MLflow run itself"
        report = airflow.call("GET", f"{task}/evaluate/links")["extra_links"]["Report"]
        assert report == f"{link}/artifacts/evaluation/report.html"
        copy = f"/get-artifact?path=evaluation/report.html&run_uuid={link.rpartition('/')[2]}"
        with urllib.request.urlopen(servers["MLFLOW_TRACKING_URI"] + copy) as answer:
            assert b"<html" in answer.read()
    finally:
        airflow.stop()

    with urllib.request.urlopen(f"http://{servers['REGRAFT_TRITON_URLS']}/v2/models/tiny") as answer:
        assert json.load(answer)["versions"] == ["1"]
    made = identities(tiny.store)
    again = local.run(
        tiny.recipe, store=tiny.store.url, run=RUN, logs=tmp_path / "logs", watcher=Silent(), environment=servers
    )
    assert [(ended.state, ended.cached) for ended in again] == [("done", True)] * 5
    assert identities(tiny.store) == made
