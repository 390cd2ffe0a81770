"""The real components, a real MLflow server and a real Triton: the compiled pipeline runs to a served model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft import pipeline, stack, tasks
from regraft.runners import local
from regraft.store import Store
from tests.kubeflow.conftest import KFP, ROOT, regraft
from tests.worlds import RUN, Tiny, identities


class Silent:
    """A watcher of the local runner that says nothing."""

    def started(self, step: pipeline.Step) -> None: ...
    def progress(self, step: pipeline.Step, done: float, text: str) -> None: ...
    def retrying(self, step: pipeline.Step, seconds: float, why: str) -> None: ...
    def ended(self, ended: local.StepEnded) -> None: ...


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The laptop stack in a folder of its own; gives the variables that lead to it."""
    if not KFP.exists():
        pytest.skip("Kubeflow's environment is not there: make kfp")
    for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS", "REGRAFT_MODEL_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    home = tmp_path / "home"
    try:
        stack.up(home=home, say=print)
        yield stack.environment(home)
    finally:
        stack.down(home=home, say=print)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "summarization"])
def test_the_pipeline_ends_with_a_champion_and_the_local_runner_finds_it_done(
    task: str, tmp_path: Path, bases: Callable[[str], Path], servers: dict[str, str]
) -> None:
    tiny, compiled = Tiny(tmp_path, bases(task), task=task), tmp_path / "tiny.kfp.yaml"
    assert regraft("compile", tiny.recipe, "--to", "kfp", "-o", compiled).returncode == 0

    command: list[Any] = [KFP, ROOT / "tests/kubeflow/on_this_machine.py", compiled, "--python", sys.executable]
    command += ["--root", tmp_path / "kfp", "--set", f"store={tiny.store.url}", "--set", f"run={RUN}"]
    done = subprocess.run(command, env={**os.environ, **servers}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["succeeded"], done.stdout + done.stderr
    assert [container["step"] for container in result["started"]] == [
        *(step.name for step in pipeline.steps(task)),
        "record",
    ]

    assert [entry.version for entry in tiny.ledger.entries()] == [1]
    if tasks.served(task):
        with urllib.request.urlopen(f"http://{servers['REGRAFT_TRITON_URLS']}/v2/models/tiny") as answer:
            assert json.load(answer)["versions"] == ["1"]
    (output,) = (tmp_path / "kfp/outputs").glob("*/evaluate/executor_output.json")
    assert output.with_name("verdict").read_text().startswith("Promote: ")
    assert "<html" in output.with_name("report").read_text()

    made = identities(tiny.store)
    told: dict[str, Any] = {"logs": tmp_path / "logs", "watcher": Silent(), "environment": servers}
    again = local.run(tiny.recipe, store=tiny.store.url, run=RUN, **told)
    assert [(ended.state, ended.cached) for ended in again] == [("done", True)] * len(pipeline.steps(task))
    assert identities(tiny.store) == made

    fresh = Store(str(tmp_path / "fresh"), "tiny")
    local.run(tiny.recipe, store=fresh.url, run=RUN, **told)
    assert identities(fresh) == made
