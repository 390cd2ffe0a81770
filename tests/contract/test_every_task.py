"""What holds for each task: from data to a champion that answers, refused, killed and resumed, and twice the same."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.deploy import serve
from regraft import closure, pipeline, recipe, summary, tasks
from tests.worlds import TASKS, Tiny, of

ROOT = Path(__file__).parents[2]
OPTIONAL = {"READS", "CHOSEN_BY", "LIBRARIES", "untrained", "merged"}
OPTIONAL |= {"tokenizer", "mask", "probes", "prompted", "probed", "compared", "judged", "STREAMS", "INSTEAD"}
"""Names that a task has where it needs them."""
each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def world(task: str, bases: Callable[[str], Path], mlflow_server: str, tmp_path: Path) -> Tiny:
    """A world of the task, under a name of its own: one MLflow server serves all."""
    made = Tiny(tmp_path, bases(task), {"MLFLOW_TRACKING_URI": mlflow_server}, task)
    made.recipe.write_text(made.recipe.read_text().replace("name: tiny\n", f"name: {task}\n"))
    made.store = type(made.store)(made.store.url, task)
    return made


def adapter(world: Tiny) -> dict[str, str]:
    """SHA-256 of each file of the adapter."""
    result = world.result("finetune")
    return {name: output.sha256 for name, output in result.outputs.items() if name.startswith("adapter/")}


def test_each_task_has_a_world_a_recipe_that_is_shipped_and_the_names_that_steps_know() -> None:
    assert tasks.names() == TASKS
    shipped = {recipe.load(path).task for path in (ROOT / "dags/recipes").glob("*.yaml")}
    assert shipped == set(TASKS)
    said = (tasks.__doc__ or "").partition("\n- ")[2].partition("\n\n")[0]
    of_all, _, of_served = said.partition("- `tensors")
    for task in TASKS:
        listed = of_all + ("`tensors" + of_served if tasks.served(task) else "")
        names = set(re.findall(r"`(\w+)(?:\(|`)", listed)) - OPTIONAL
        assert len(names) > 20
        assert names <= set(dir(tasks.of(task))), f"{task} lacks {names - set(dir(tasks.of(task)))}"


@each_task
def test_no_other_task_counts_for_an_identity(task: str, tmp_path: Path) -> None:
    """So the commit that adds a task changes no identity of the others, and retrains no model."""
    for folder in ("regraft", "components"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for other in TASKS:
        if other != task:
            shutil.rmtree(tmp_path / "regraft/tasks" / other.replace("-", "_"))
    for step in pipeline.STEPS:
        assert closure.digest(f"components.{step.name}", task=task) == closure.digest(
            f"components.{step.name}", task=task, root=str(tmp_path)
        )


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server without models; gives the variables by which deploy finds it."""
    (tmp_path / "models").mkdir()
    with serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server:
        yield {
            "REGRAFT_TRITON_URLS": server.address,
            "REGRAFT_MODEL_REPOSITORY": str(tmp_path / "models"),
            "REGRAFT_TRITONSERVER": str(serve.home()),
        }


@each_task
def test_a_first_run_ends_with_a_champion_and_a_second_one_works_no_more(
    task: str, world: Tiny, triton: dict[str, str]
) -> None:
    steps = tuple(step.name for step in pipeline.steps(task))
    world.through(*steps, **triton)
    made = {step: world.result(step) for step in steps}
    assert made["promote"].metrics["version"] == 1
    verdict = made["evaluate"].metrics
    assert verdict["verdict"] == "promote"
    assert set(verdict["challenger"]) == set(tasks.of(task).METRICS)
    assert [entry.version for entry in world.ledger.entries()] == [1]
    if tasks.served(task):
        measured, address = made["deploy"].measured, triton["REGRAFT_TRITON_URLS"]
        assert (measured["precision"], measured["warnings"]) == ("fp32", [])
        assert measured["rows"] > 50, "all rows of a tiny world are asked"
        answer = summary.prediction(address, recipe.load(world.recipe), world.store, made["finetune"].identity)
        assert answer is not None
        assert answer["version"] == 1
        assert answer["short"]
    world.through(*steps, **triton)
    assert [world.pointer(step)["cached"] for step in steps] == [True] * len(steps)
    assert {step: world.result(step).digest for step in steps} == {step: made[step].digest for step in steps}


@each_task
def test_damaged_rows_are_refused_and_quarantined_with_their_reason(task: str, world: Tiny) -> None:
    import pyarrow.parquet as pq

    rows, wrong = of(task).rows(400), 100
    world.put([*of(task).damaged(rows[:wrong]), *rows[wrong:]])
    code, output = world.step("validate")
    assert code == 10, output
    assert of(task).REFUSED in output
    result = world.result("validate")
    assert result.refused_by == "contract"
    folder = world.store.fetch(
        f"validate/{result.identity}", result, world.folder / "out", only=("quarantine.parquet",)
    )
    reasons = pq.read_table(folder / "quarantine.parquet")["reason"].to_pylist()
    assert sum(reason in tasks.of(task).ROWS.reasons for reason in reasons) == wrong


@each_task
def test_a_finetune_that_is_killed_resumes_to_the_same_bytes(task: str, world: Tiny) -> None:
    longer = f"epochs: {3 * of(task).EPOCHS}"  # so that it is at work for long after its first checkpoint
    world.recipe.write_text(world.recipe.read_text().replace(f"epochs: {of(task).EPOCHS}", longer))
    world.through("validate", "finetune")
    undisturbed = adapter(world)
    prefix = f"finetune/{world.result('finetune').identity}"
    shutil.rmtree(world.store.path(prefix))
    process = world.start("finetune")
    checkpoints = Path(world.store.path(f"{prefix}/checkpoints"))
    deadline = time.monotonic() + 240
    while not list(checkpoints.glob("*/manifest.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed while it worked"
    assert world.store.manifest(prefix) is None
    world.through("finetune")
    assert adapter(world) == undisturbed
