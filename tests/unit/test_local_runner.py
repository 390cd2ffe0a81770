"""The local runner, with stand-ins for the components that start and end as real steps do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regraft import pipeline
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL

ROOT = Path(__file__).parents[2]
RUN = "2026-11-24T03-00"
STEP = """
import os, sys, time
from pathlib import Path
from regraft.errors import BadInput, Temporary
from regraft.step import Outcome, main

name = "{name}"
folder = Path(os.environ["MARKS"])

def inputs(context):
    return {{"before": context.result(context.step.needs[-1]).digest}} if context.step.needs else {{"source": "a"}}

def work(context):
    with (folder / name).open("a") as file:
        file.write("x")
    times = len((folder / name).read_text())
    (folder / f"{{name}}.threads").write_text(os.environ["OMP_NUM_THREADS"])
    mode = os.environ.get(name, "")
    context.progress(0.25, "a quarter")
    if mode == "refuse":
        return Outcome(refused="too few rows", refused_by="gate")
    if mode == "away" or (mode == "away once" and times == 1):
        raise Temporary("the server is away", next="wait")
    if mode == "killed once" and times == 1:
        os.kill(os.getpid(), 9)
    if mode == "bad":
        raise BadInput("the column is missing", where="data.csv", next="mend it")
    if mode == "bug":
        raise KeyError("oops")
    if mode == "sleep":
        time.sleep(60)
    if mode == "hang":
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
    if mode == "leave a child":
        import subprocess
        child = subprocess.Popen(["sleep", "300"])
        (folder / "child").write_text(str(child.pid))
    (context.out / "a.txt").write_text(name)
    return Outcome()

main(name, inputs=inputs, work=work)
"""
RUNNER = """
import dataclasses, json, os, sys
from pathlib import Path
from regraft import pipeline, process
from regraft.cli.watching import Lines
from rich.console import Console
from regraft.runners import local

local.BACKOFF_SECONDS = 0.01
process.GRACE_SECONDS = 2.0
if minutes := os.environ.get("MINUTES"):
    steps = (dataclasses.replace(step, timeout_minutes=float(minutes)) for step in pipeline.STEPS)
    pipeline.STEPS = tuple(steps)
try:
    ended = local.run("recipe.yaml", store="store", run=sys.argv[1], logs="logs", watcher=Lines(Console(stderr=True)))
except local.Interrupted as error:
    print(error, file=sys.stderr)
    sys.exit(75)
print(json.dumps([[e.step, e.exit, e.state, e.cached, e.attempts, e.says, e.next] for e in ended]))
"""


class Folder:
    """A folder with a recipe, a store and five stand-in components."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(str(path / "store"), "reviews")
        (path / "recipe.yaml").write_text(MINIMAL + "resources: {finetune: {cpu: 2.5}}\n")
        for step in pipeline.STEPS:
            package = path / "components" / step.name
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(STEP.format(name=step.name))
        (path / "components/__init__.py").touch()

    def start(self, **modes: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "MARKS": str(self.path), "PYTHONPATH": f"{self.path}:{ROOT}", **modes}
        return subprocess.Popen(
            [sys.executable, "-c", RUNNER, RUN],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **modes: str) -> list[list[object]]:
        import json

        process = self.start(**modes)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return list(json.loads(out))

    def times(self, step: str) -> int:
        mark = self.path / step
        return len(mark.read_text()) if mark.exists() else 0

    def log(self, step: str) -> str:
        return (self.path / "logs" / "reviews" / RUN / f"{step}.log").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_all_five_steps_run_and_the_second_time_all_are_cached(folder: Folder) -> None:
    names = [step.name for step in pipeline.STEPS]
    assert [(e[0], e[1], e[3]) for e in folder.run()] == [(name, 0, False) for name in names]
    assert [(e[0], e[1], e[3]) for e in folder.run()] == [(name, 0, True) for name in names]
    assert [folder.times(name) for name in names] == [1] * 5


def test_a_step_may_use_the_processors_that_the_recipe_gives_it(folder: Folder) -> None:
    folder.run()
    assert (folder.path / "finetune.threads").read_text() == "3"
    assert (folder.path / "promote.threads").read_text() == "1"


def test_a_refusal_ends_the_run_and_says_why(folder: Folder) -> None:
    last = folder.run(evaluate="refuse")[-1]
    assert last[:3] == ["evaluate", 10, "refused"]
    assert last[5] == "too few rows"
    assert folder.times("promote") == 0


def test_a_server_that_is_away_for_a_moment_costs_one_more_attempt(folder: Folder) -> None:
    ended = folder.run(finetune="away once")
    assert (ended[1][1], ended[1][4]) == (0, 2)
    assert len(ended) == 5


def test_a_step_that_was_killed_is_started_again(folder: Folder) -> None:
    assert folder.run(finetune="killed once")[1][4] == 2


@pytest.mark.parametrize("mode", ["sleep", "hang"])
def test_a_step_whose_time_is_over_is_stopped_and_not_started_again(folder: Folder, mode: str) -> None:
    """One that saves its work at SIGTERM, and one that hears nothing."""
    (last,) = folder.run(validate=mode, MINUTES="0.07")
    assert last == ["validate", 75, "failed", False, 1, "did not end within 0.07 minutes and was stopped", None]
    assert folder.run()[-1][1] == 0, "the same command resumes"


def test_attempts_are_bounded(folder: Folder) -> None:
    last = folder.run(validate="away")[-1]
    assert last == ["validate", 75, "failed", False, 4, "the server is away", "wait"]
    assert folder.times("validate") == 4


@pytest.mark.parametrize(("mode", "code", "says"), [("bad", 20, "the column is missing"), ("bug", 1, "KeyError")])
def test_what_retrying_cannot_mend_is_not_retried(folder: Folder, mode: str, code: int, says: str) -> None:
    last = folder.run(validate=mode)[-1]
    assert last[1] == code
    assert says in str(last[5])
    assert folder.times("validate") == 1


def test_the_log_has_the_command_line_and_all_output(folder: Folder) -> None:
    folder.run(validate="bug")
    log = folder.log("validate")
    assert f"-m components.validate --recipe recipe.yaml --store store --run {RUN}" in log
    assert "progress 0.250 a quarter" in log
    assert "KeyError: 'oops'" in log


def _wait_for(found: Path) -> None:
    deadline = time.monotonic() + 30
    while not found.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found.exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_step_in_order_and_the_same_command_resumes(folder: Folder, sent: signal.Signals) -> None:
    process = folder.start(finetune="sleep")
    _wait_for(folder.path / "finetune.threads")
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"stopped by {sent.name}" in err
    assert "stopped by a signal" in folder.log("finetune"), "the step itself was told and ended by itself"
    ended = folder.run()
    assert [e[3] for e in ended] == [True, False, False, False, False]


def test_the_runner_does_not_outlive_a_kill_with_a_step_still_at_work(folder: Folder) -> None:
    process = folder.start(finetune="sleep")
    _wait_for(folder.path / "finetune.threads")
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe
        pipe.close()
    deadline = time.monotonic() + 10
    while _at_work(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _at_work(folder)
    assert len(folder.run()) == 5


def _at_work(folder: Folder) -> list[str]:
    """Command lines of steps that run in the folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder.path) and "components.finetune" in (process.info["cmdline"] or []):
            found.append(str(process.info["cmdline"]))
    return found


def test_what_a_step_leaves_behind_ends_with_it(folder: Folder) -> None:
    import psutil

    assert len(folder.run(validate="leave a child")) == 5
    child = int((folder.path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
