"""The compiled pipeline runs for real through kfp.local; its components are stand-ins with the contract of a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from regraft import pipeline
from regraft.manifest import Manifest
from regraft.store import Store
from tests.kubeflow import stub
from tests.kubeflow.conftest import COMPILED, KFP, ROOT

RUN = "2026-11-23T03-00"
STEPS = [step.name for step in pipeline.STEPS]


@dataclass
class Machine:
    """A folder with stand-in components and a store."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "store"), "movie-sentiment")

    @property
    def environment(self) -> dict[str, str]:
        stand_ins = {"PYTHONPATH": f"{self.folder}:{ROOT}", "STUB_WORKED": str(self.folder / "worked")}
        return {**os.environ, "REGRAFT_SCRATCH": str(self.folder), **stand_ins}

    def kubeflow(self, *, run: str = "", scheduled: str = "2026-11-23T03:00:00Z", **modes: str) -> dict[str, Any]:
        """Runs the shipped pipeline; gives what on_this_machine.py says of it."""
        if not KFP.exists():
            pytest.skip("Kubeflow's environment is not there: make kfp")
        command = [KFP, ROOT / "tests/kubeflow/on_this_machine.py", COMPILED, "--python", sys.executable]
        command += ["--root", self.folder / "kfp", "--scheduled", scheduled]
        command += ["--set", f"store={self.folder / 'store'}", "--set", f"run={run}"]
        done = subprocess.run(command, env={**self.environment, **modes}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stdout + done.stderr}

    def locally(self) -> None:
        """Runs the same recipe step by step, as the local runner does."""
        for step in STEPS:
            command = [
                sys.executable,
                "-m",
                f"components.{step}",
                "--recipe",
                ROOT / "dags/recipes/movie-sentiment.yaml",
            ]
            command += ["--store", self.folder / "store", "--run", RUN]
            subprocess.run(command, env=self.environment, cwd=self.folder, check=True)

    @property
    def worked(self) -> list[str]:
        file = self.folder / "worked"
        return file.read_text().split() if file.exists() else []

    def pointer(self, step: str, run: str = RUN) -> dict[str, Any]:
        return dict(self.store.read_json(f"runs/{run}/{step}.json"))

    def manifests(self) -> dict[str, Manifest]:
        found = {step: self.store.manifest(f"{step}/{self.pointer(step)['identity']}") for step in STEPS}
        return {step: manifest for step, manifest in found.items() if manifest}

    def shown(self, step: str, name: str) -> str:
        """A file that the step left for Kubeflow."""
        (file,) = (self.folder / "kfp/outputs").glob(f"*/{step}/{name}")
        return file.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(stub.write(tmp_path))


def started(result: dict[str, Any]) -> list[str]:
    return [container["step"] for container in result["started"]]


def test_the_steps_run_in_order_and_kubeflow_shows_metrics_verdict_and_report(machine: Machine) -> None:
    result = machine.kubeflow()
    assert result["succeeded"]
    assert started(result) == [*STEPS, "record"]
    assert [machine.pointer(step)["state"] for step in STEPS] == ["done"] * 5
    assert f"--run {RUN}" in result["log"]
    artifacts = json.loads(machine.shown("evaluate", "executor_output.json"))["artifacts"]
    assert artifacts["metrics"]["artifacts"][0]["metadata"] == {"challenger.accuracy": 0.6, "rows": 5}
    verdict = machine.shown("evaluate", "verdict")
    assert verdict.startswith("Hold: too few rows.")
    assert "| accuracy&nbsp;&nbsp; | 0.600 (0.500 to 0.700) |" in verdict
    assert "| champion&nbsp;&nbsp; | **undecided**&nbsp;&nbsp; | it may be worse |" in verdict
    assert machine.shown("evaluate", "report") == "<h1>promote</h1>"


def test_a_refused_gate_stops_promote_and_deploy_and_is_no_failure(machine: Machine) -> None:
    result = machine.kubeflow(STUB_EVALUATE="refuse")
    assert started(result) == ["validate", "finetune", "evaluate", "record"]
    assert result["succeeded"]
    assert (machine.shown("evaluate", "outcome"), machine.shown("evaluate", "reason")) == ("refused", "too few rows")
    assert machine.shown("evaluate", "report") == "<h1>promote</h1>", "and the report says why"
    assert "it may be worse" in machine.shown("evaluate", "verdict")
    assert machine.pointer("evaluate")["state"] == "refused"


def test_a_step_that_is_refused_without_a_result_is_no_failure_either(machine: Machine) -> None:
    result = machine.kubeflow(STUB_DEPLOY="overtaken")
    assert started(result) == [*STEPS, "record"]
    assert result["succeeded"]
    assert machine.shown("deploy", "outcome") == "refused"
    assert machine.shown("deploy", "reason") == "another became champion first"


def test_refused_data_stops_everything_in_the_run_that_the_parameter_names(machine: Machine) -> None:
    result = machine.kubeflow(run="2026-10-05T03-00.again", STUB_VALIDATE="refuse")
    assert started(result) == ["validate", "record"]
    assert result["succeeded"]
    assert machine.pointer("validate", "2026-10-05T03-00.again")["state"] == "refused"


def test_what_no_retry_can_mend_is_tried_once_and_fails_the_run(machine: Machine) -> None:
    result = machine.kubeflow(STUB_FINETUNE="bad")
    assert not result["succeeded"]
    assert [container["code"] for container in result["started"]] == [0, 20, 20, 20, 20, 0]
    assert machine.worked == ["validate", "finetune"]
    pointer = machine.pointer("finetune")
    assert (pointer["state"], pointer["error"]) == ("failed", "the data is gone"), "the step's own words stay"
    (job,) = machine.store.names("kubeflow")
    assert machine.store.names(f"kubeflow/{job}") == ["run.json"], "and the button Retry works"
    assert machine.kubeflow()["succeeded"], "and another run, with the cause mended, goes through"
    assert machine.worked == ["validate", "finetune", "finetune", "evaluate", "promote", "deploy"]


def test_a_server_that_is_away_is_asked_again(machine: Machine) -> None:
    result = machine.kubeflow(STUB_PROMOTE=f"away:{machine.folder / 'was-away'}")
    assert result["succeeded"]
    assert [c["code"] for c in result["started"] if c["step"] == "promote"] == [75, 0]


@pytest.mark.parametrize("before", ["nothing", "an earlier passage of the run"])
def test_a_pod_that_dies_is_recorded_as_the_failure_of_its_step(machine: Machine, before: str) -> None:
    if before != "nothing":
        pointer = {"state": "done", "at": "2026-11-23T03:10:00+00:00"}
        machine.store.replace(f"runs/{RUN}/finetune.json", json.dumps(pointer).encode())
    result = machine.kubeflow(STUB_FINETUNE="killed")
    assert not result["succeeded"]
    pointer = machine.pointer("finetune")
    assert (pointer["state"], pointer["exit"]) == ("failed", 75), "not what an earlier passage of the run left there"
    assert "Kubeflow says FAILED" in pointer["error"]


def test_kubeflow_and_the_local_runner_make_the_same_and_share_the_cache(machine: Machine, tmp_path: Path) -> None:
    machine.locally()
    first = machine.manifests()
    machine.kubeflow()
    assert machine.worked == STEPS, "nothing worked twice"
    assert all(machine.pointer(step)["cached"] for step in STEPS)
    other = Machine(stub.write(tmp_path / "other"))
    other.kubeflow()
    assert other.worked == STEPS
    for step, manifest in other.manifests().items():
        assert (manifest.identity, manifest.digest) == (first[step].identity, first[step].digest)
