"""Every step starts and ends the same way. The step here is a stand-in with the contract of a real one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft import pipeline, processor, recipe, snapshot
from regraft.step import Context
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL

RUN = "2026-11-24T03-00"
STEP = """
import os, sys, time
from pathlib import Path
from regraft.errors import Temporary
from regraft.step import Outcome, main

def inputs(context):
    return {"source": os.environ.get("SOURCE", "a")}

def work(context):
    marks = Path(os.environ["MARKS"])
    (marks / "working").touch()
    mode = os.environ.get("MODE", "")
    for name in ("a.txt", "deep/b.txt"):
        (context.out / name).parent.mkdir(exist_ok=True)
        (context.out / name).write_text(name)
    (context.out / "report.html").write_text(str(time.time()))
    if mode == "sleep":
        time.sleep(60)
    if mode == "bug":
        raise KeyError("oops")
    if mode == "reads":
        context.recipe.gates.metric
    if mode == "temporary":
        raise Temporary("the server is away", next="wait")
    if mode == "memory":
        raise MemoryError
    if mode == "die while publishing":
        original = context.store._upload
        def upload(file, key):
            original(file, key)
            os.kill(os.getpid(), 9)
        context.store._upload = upload
    context.progress(0.5, "half")
    with (marks / "worked").open("a") as file:
        file.write("x")
    refused = {"refused": "too few rows", "refused_by": "contract"} if mode == "refuse" else {}
    return Outcome(metrics={"n": 1}, views=("report.html",), **refused)

main(os.environ.get("STEP", "validate"), inputs=inputs if os.environ.get("STEP") != "finetune" else
     lambda context: {"train": context.result("validate").outputs["a.txt"].sha256}, work=work)
"""


class Laptop:
    """A folder with a recipe, a store and the stand-in step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"), "reviews")
        (folder / "recipe.yaml").write_text(MINIMAL)
        (folder / "step.py").write_text(STEP)

    def start(self, *, run: str = RUN, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "step.py", "--recipe", "recipe.yaml", "--store", "store", "--run", run],
            cwd=self.folder,
            env={**os.environ, "MARKS": str(self.folder), "REGRAFT_SCRATCH": str(self.folder), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def step(self, *, run: str = RUN, **environment: str) -> tuple[int, str]:
        process = self.start(run=run, **environment)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr

    @property
    def times_worked(self) -> int:
        mark = self.folder / "worked"
        return len(mark.read_text()) if mark.exists() else 0

    def pointer(self, step: str = "validate", run: str = RUN) -> dict[str, object]:
        return dict(self.store.read_json(f"runs/{run}/{step}.json"))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def test_progress_is_a_line_a_percent_at_most_one_a_second_and_at_least_one_a_minute(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(steps: int, seconds: float) -> int:
        context = Context(
            recipe=recipe.parse(MINIMAL),
            store=laptop.store,
            run=RUN,
            step=pipeline.STEPS[0],
            scratch=laptop.folder,
        )
        clock = iter(range(steps))
        monkeypatch.setattr("regraft.step.time.monotonic", lambda: 1000 + next(clock) * seconds)
        for step in range(steps):
            context.progress(step / steps, "at work")
        return len(capsys.readouterr().err.splitlines())

    assert 45 <= lines(1000, 0.05) <= 50
    assert 95 <= lines(1000, 5) <= 101
    assert 990 <= lines(1000, 60) <= 1000


def test_a_step_publishes_its_files_then_its_manifest_then_its_pointer(laptop: Laptop) -> None:
    code, stderr = laptop.step()
    assert code == 0, stderr
    assert "progress 0.500 half" in stderr
    pointer = laptop.pointer()
    assert (pointer["state"], pointer["cached"]) == ("done", False)
    manifest = laptop.store.manifest(f"validate/{pointer['identity']}")
    assert manifest is not None
    assert set(manifest.outputs) == {"a.txt", "deep/b.txt"}
    assert set(manifest.views) == {"report.html"}
    assert manifest.cost is not None
    assert manifest.cost.peak_memory_bytes > 1e6
    fetched = laptop.store.fetch(f"validate/{manifest.identity}", manifest, laptop.folder / "fetched")
    assert (fetched / "deep/b.txt").read_text() == "deep/b.txt"


def test_the_second_time_is_a_cache_hit(laptop: Laptop) -> None:
    assert laptop.step()[0] == 0
    first = laptop.pointer()["identity"]
    assert laptop.step(run="2026-12-01T03-00")[0] == 0
    assert laptop.times_worked == 1
    pointer = laptop.pointer(run="2026-12-01T03-00")
    assert (pointer["identity"], pointer["cached"]) == (first, True)


def test_a_cached_result_of_another_kind_of_processor_is_used_and_that_is_said(laptop: Laptop) -> None:
    assert laptop.step()[0] == 0
    manifest = laptop.store.manifest(f"validate/{laptop.pointer()['identity']}")
    assert manifest is not None
    assert manifest.processor == f"{platform.machine()} {' '.join(processor.flags())}, 2 threads"
    code, stderr = laptop.step(ATEN_CPU_CAPABILITY="avx2")
    assert (code, laptop.times_worked) == (0, 1)
    assert "made on another kind of processor" in stderr
    assert "ATEN_CPU_CAPABILITY=avx2" in stderr
    assert "another kind" not in laptop.step()[1]


def test_a_recipe_in_the_store_is_never_replaced_and_each_result_names_its_own(laptop: Laptop) -> None:
    texts = [MINIMAL, MINIMAL + "training: {epochs: 2}\n"]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    for step, text in zip(("validate", "finetune"), texts, strict=True):
        (laptop.folder / "recipe.yaml").write_text(text)
        assert laptop.step(STEP=step)[0] == 0
    assert laptop.store.names("recipes") == sorted(f"{digest}.yaml" for digest in digests)
    for step, text, digest in zip(("validate", "finetune"), texts, digests, strict=True):
        pointer = laptop.pointer(step)
        manifest = laptop.store.manifest(f"{step}/{pointer['identity']}")
        assert manifest is not None
        assert pointer["recipe_sha256"] == manifest.recipe_sha256 == digest
        assert laptop.store.read(f"recipes/{digest}.yaml").decode() == text
    assert snapshot.of_run(laptop.store, RUN).training.epochs == 2, "of the last step"


def test_a_cached_step_names_the_recipe_that_it_was_asked_with_and_its_result_the_one_that_made_it(
    laptop: Laptop,
) -> None:
    assert laptop.step()[0] == 0
    first = laptop.pointer()
    (laptop.folder / "recipe.yaml").write_text(MINIMAL + "# a note\n")
    assert laptop.step()[0] == 0
    again = laptop.pointer()
    manifest = laptop.store.manifest(f"validate/{again['identity']}")
    assert manifest is not None
    assert (again["cached"], again["identity"]) == (True, first["identity"])
    assert again["recipe_sha256"] != first["recipe_sha256"] == manifest.recipe_sha256


def test_a_failure_names_its_recipe_too(laptop: Laptop) -> None:
    laptop.step(MODE="temporary")
    assert laptop.store.names("recipes") == [f"{laptop.pointer()['recipe_sha256']}.yaml"]


def test_a_run_whose_first_step_was_killed_is_seen(laptop: Laptop) -> None:
    process = laptop.start(MODE="sleep")
    wait_until((laptop.folder / "working").exists)
    assert laptop.pointer()["state"] == "begun"
    process.kill()
    process.communicate()
    status = [str(Path(sys.executable).with_name("regraft")), "status", "--store", "store"]
    shown = subprocess.run([*status, "reviews"], cwd=laptop.folder, capture_output=True, text=True)
    assert "Not finished: validate is at work, or was killed" in shown.stdout, shown.stderr
    line = json.loads(subprocess.check_output([*status, "--json"], cwd=laptop.folder))[0]
    assert (line["run"], line["steps"]["validate"], line["steps"]["finetune"]) == (RUN, "begun", "not run")


def test_other_inputs_are_another_identity(laptop: Laptop) -> None:
    laptop.step()
    first = laptop.pointer()["identity"]
    laptop.step(SOURCE="b")
    assert laptop.times_worked == 2
    assert laptop.pointer()["identity"] != first


def test_a_refusal_is_a_complete_result_and_repeats_itself_from_the_cache(laptop: Laptop) -> None:
    for _ in range(2):
        code, stderr = laptop.step(MODE="refuse")
        assert code == 10
        assert "refused: too few rows" in stderr
        pointer = laptop.pointer()
        assert (pointer["state"], pointer["refused"], pointer["refused_by"]) == ("refused", "too few rows", "contract")
    assert laptop.times_worked == 1
    code, stderr = laptop.step(STEP="finetune")
    assert code == 10
    assert "validate refused run" in stderr


def test_a_step_whose_input_is_missing_says_what_to_run(laptop: Laptop) -> None:
    code, stderr = laptop.step(STEP="finetune")
    assert code == 20
    assert "step validate has not run" in stderr
    assert "python -m components.validate" in stderr


@pytest.mark.parametrize(
    ("mode", "exit_code", "says"),
    [
        ("bug", 1, "a bug in regraft: KeyError: 'oops'"),
        (
            "reads",
            1,
            "a bug in regraft: NotDeclared: step validate reads gates.metric, which regraft/pipeline.py does not",
        ),
        ("temporary", 75, "the server is away"),
        ("memory", 75, "raise resources.validate.memory"),
    ],
)
def test_a_failure_leaves_nothing_but_a_pointer_that_says_why(
    laptop: Laptop, mode: str, exit_code: int, says: str
) -> None:
    code, stderr = laptop.step(MODE=mode)
    assert code == exit_code
    assert says in stderr
    assert laptop.pointer()["state"] == "failed"
    assert laptop.store.names("validate") == []
    assert laptop.step()[0] == 0, "and the next try goes through"


def test_a_bad_recipe_is_one_clear_error(laptop: Laptop) -> None:
    (laptop.folder / "recipe.yaml").write_text(MINIMAL + "wat: 1\n")
    code, stderr = laptop.step()
    assert code == 20
    assert "recipe.yaml: 1 error\n  line 9: wat: unknown key" in stderr
    assert "Traceback" not in stderr


def test_a_read_only_store_is_one_clear_error(laptop: Laptop) -> None:
    (laptop.folder / "store").write_text("a file where a folder should be")
    code, stderr = laptop.step()
    assert code == 20
    assert "the store cannot be written" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_step_as_temporary(laptop: Laptop, sent: signal.Signals) -> None:
    process = laptop.start(MODE="sleep")
    wait_until((laptop.folder / "working").exists)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "stopped by a signal" in stderr
    assert laptop.store.names("validate") == []
    assert not list(laptop.folder.glob("regraft-validate-*")), "the scratch folder is gone"


def test_killed_while_publishing_nothing_is_visible_and_the_rerun_cleans_up(laptop: Laptop) -> None:
    assert laptop.step(MODE="die while publishing")[0] == -signal.SIGKILL
    (identity,) = laptop.store.names("validate")
    assert laptop.store.manifest(f"validate/{identity}") is None
    assert laptop.pointer()["state"] == "begun"
    assert "validate has not ended in run" in laptop.step(STEP="finetune")[1]
    assert laptop.step()[0] == 0
    assert laptop.pointer()["state"] == "done"
    names = laptop.store.names(f"validate/{identity}")
    assert len([n for n in names if n.startswith("attempt-")]) == 1


def test_help_says_what_the_step_does(laptop: Laptop) -> None:
    done = subprocess.run([sys.executable, "step.py", "--help"], cwd=laptop.folder, capture_output=True, text=True)
    assert done.returncode == 0
    assert "checks fresh data against the contract" in done.stdout
