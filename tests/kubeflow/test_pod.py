"""Inside a pod: which run a Kubeflow run is (the first pod decides, the others read), and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from regraft import pipeline, recipe
from regraft.errors import BadInput, Exit
from regraft.runners import kubeflow_pod
from regraft.store import Store
from tests.kubeflow import stub
from tests.kubeflow.conftest import ROOT
from tests.unit.test_recipe import MINIMAL

WEEKLY = recipe.parse(MINIMAL + 'schedule: {cron: "0 3 * * 1"}\n')


def named(folder: Path, *, run: str = "", scheduled: str = "", job: str = "1") -> str:
    given = {"job": job, "run": run, "scheduled": scheduled}
    return kubeflow_pod._run_of(Store(str(folder), "reviews"), given, WEEKLY)[0]


@pytest.mark.parametrize(
    ("scheduled", "run"),
    [
        ("2026-11-23T03:00:00Z", "2026-11-23T03-00"),
        ("2026-11-23T02:59:59Z", "2026-11-16T03-00"),
        ("2026-11-24T18:00:00+00:00", "2026-11-23T03-00"),
    ],
)
def test_the_run_that_was_due_when_kubeflow_scheduled_it(tmp_path: Path, scheduled: str, run: str) -> None:
    assert named(tmp_path, scheduled=scheduled) == run


def test_a_server_that_does_not_say_when_leaves_it_to_the_clock(tmp_path: Path) -> None:
    run = named(tmp_path, scheduled="{{$.pipeline_job_schedule_time_utc}}")
    assert run == pipeline.run_id(WEEKLY, datetime.now(UTC))


def test_all_pods_of_a_run_agree_even_when_the_next_one_is_due(tmp_path: Path) -> None:
    first = named(tmp_path, scheduled="2026-11-16T03:00:00Z")
    assert named(tmp_path, scheduled="2026-11-23T03:00:00Z") == first
    assert named(tmp_path, scheduled="2026-11-23T03:00:00Z", job="2") != first


def test_a_run_that_is_no_run_id_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a run id"):
        named(tmp_path, run="yesterday")


def test_sigterm_reaches_the_step_so_that_it_can_save_its_work(tmp_path: Path) -> None:
    stub.write(tmp_path)
    given = {
        "recipe": yaml.safe_load(MINIMAL),
        "store": "store",
        "run": "2026-11-23T03-00",
        "scheduled": "",
        "job": "1",
    }
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "STUB_WORKED": str(tmp_path / "worked")}
    command = [sys.executable, "-m", "regraft.runners.kubeflow_pod", "validate"]
    pod = subprocess.Popen(
        [*command, json.dumps({"inputs": {"parameterValues": given}, "outputs": {}})],
        cwd=tmp_path,
        env={**environment, "STUB_VALIDATE": "sleep"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "worked").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    pod.send_signal(signal.SIGTERM)
    _, stderr = pod.communicate(timeout=30)
    assert pod.returncode == 75
    assert "validate: stopped by a signal" in stderr


def test_a_folder_for_scratch_that_is_not_there_is_named_and_nothing_starts(tmp_path: Path) -> None:
    stub.write(tmp_path)
    given = {"recipe": yaml.safe_load(MINIMAL), "store": str(tmp_path / "store"), "run": "2026-11-23T03-00"}
    variables = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "REGRAFT_SCRATCH": str(tmp_path / "gone"), "STUB_WORKED": "worked"}
    command = [sys.executable, "-m", "regraft.runners.kubeflow_pod", "validate"]
    command.append(json.dumps({"inputs": {"parameterValues": {**given, "scheduled": "", "job": "1"}}, "outputs": {}}))
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == Exit.BAD_INPUT, done.stderr
    assert "validate: REGRAFT_SCRATCH: the folder for temporary files does not exist" in done.stderr
    assert not (tmp_path / "worked").exists()
