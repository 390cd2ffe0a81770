"""A real scheduler: schedules, backfill, assets, approval, deadlines, and what happens when something is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft import approval, snapshot
from regraft.ledger import Ledger
from tests.airflow.laptop import WEEKLY, Laptop, slack
from tests.airflow.server import Airflow

pytestmark = pytest.mark.slow
STEPS = ("validate", "finetune", "evaluate", "promote", "deploy")
ALL_DONE = dict.fromkeys(STEPS, "success")
MONDAY = "2026-11-23T02:00:00Z"
RUN = "2026-11-23T02-00"


LINGERING = """
import time

from airflow.executors.base_executor import BaseExecutor

run = BaseExecutor.run_workload


def linger(workload, **more):
    run(workload, **more)
    if getattr(getattr(workload, "ti", None), "task_id", None) == "approve":
        time.sleep(1.5)


BaseExecutor.run_workload = staticmethod(linger)
"""
"""Workers that take their time to say that they have parked a question, so that an answer can overtake them."""

SOON = """
from datetime import timedelta


def dag_policy(dag):
    if dag.dag_id == "late":
        for alert in dag.deadline:
            alert.interval = timedelta(0)
"""
"""A deadline that is over at once; no recipe can ask for one."""


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    laptop = Laptop(tmp_path_factory.mktemp("scheduler"))
    for name in ("killed", "backfilled"):
        laptop.recipe(name)
    for name in ("approved", "rejected"):
        laptop.recipe(name, "promotion: approval\n")
    (laptop.folder / "landing").mkdir()
    laptop.recipe("late", text=WEEKLY.replace("timezone:", "deadline: 1h, timezone:"))
    laptop.recipe("landed", text=without_cron() + f"schedule: {{asset: {laptop.folder}/landing, watch: true}}\n")
    (laptop.recipes / "broken.yaml").write_text(WEEKLY.replace("name: reviews", "name: broken") + "wat: 1\n")
    return laptop


def without_cron() -> str:
    return WEEKLY[: WEEKLY.index("schedule:")]


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with slack() as (address, told):
        yield address, told


@pytest.fixture
def told(webhook: tuple[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What people were told, by all runs."""
    return webhook[1]


@pytest.fixture(scope="module")
def airflow(laptop: Laptop, webhook: tuple[str, Any]) -> Iterator[Airflow]:
    environment = {**laptop.environment, "REGRAFT_WEBHOOK": webhook[0]}
    airflow = Airflow(laptop.home, environment, laptop.folder / "stubs")
    (laptop.home / "config").mkdir()
    (laptop.home / "config/airflow_local_settings.py").write_text(LINGERING + SOON)
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()


def registered(laptop: Laptop, name: str) -> int:
    return len(Ledger(laptop.store(name)).entries())


def test_a_broken_recipe_is_one_import_error_and_no_dag_goes_with_it(airflow: Airflow) -> None:
    errors = airflow.until(lambda: airflow.call("GET", "/importErrors")["import_errors"], "the error is shown")
    assert [error["filename"] for error in errors] == ["broken_recipes.py"]
    assert "broken.yaml: 1 error" in errors[0]["stack_trace"]
    assert "wat: unknown key" in errors[0]["stack_trace"]
    known = airflow.until(lambda: airflow.call("GET", "/dags")["dags"], "DAGs are known")
    assert {dag["dag_id"] for dag in known} == {
        "killed", "backfilled", "approved", "rejected", "late", "landed", "regraft_doctor",
    }  # fmt: skip
    assert not any(dag["has_import_errors"] for dag in known)


def test_killed_scheduler_and_killed_step_the_run_completes_and_nothing_is_registered_twice(
    airflow: Airflow, laptop: Laptop
) -> None:
    laptop.mode("finetune", "sleep once")
    laptop.mode("promote", "kill once")
    run = airflow.trigger("killed", when=MONDAY)
    airflow.until((laptop.marks / "pid").exists, "finetune works")
    airflow.kill_part("scheduler")
    airflow.start_part("scheduler")
    assert airflow.finished("killed", run, 240) == ALL_DONE
    assert registered(laptop, "killed") == 1
    assert laptop.log().count("registered 1") == 1
    step = Path("/proc") / (laptop.marks / "pid").read_text() / "cmdline"  # empty for a zombie nobody waits for
    assert not step.exists() or not step.read_bytes(), "the killed scheduler's step ran on beside its repetition"


def test_backfill_gives_each_window_its_own_run(airflow: Airflow, laptop: Laptop) -> None:
    airflow.unpause("backfilled")
    # A backfill made while the schedule starts a run can kill Airflow's scheduler on SQLite (503, StaleDataError).
    (scheduled,) = airflow.until(lambda: airflow.runs("backfilled"), "the schedule starts a run")
    assert airflow.finished("backfilled", scheduled["dag_run_id"]) == ALL_DONE
    body: dict[str, Any] = {"dag_id": "backfilled", "max_active_runs": 1, "run_backwards": False, "dag_run_conf": {}}
    body |= {"from_date": "2026-10-12T00:00:00Z", "to_date": "2026-10-28T00:00:00Z"}
    airflow.call("POST", "/backfills", body)
    windows = ["2026-10-19T01-00", "2026-10-26T02-00", "2026-11-02T02-00"]

    def all_there() -> bool:
        return all(laptop.store("backfilled").exists(f"runs/{window}/deploy.json") for window in windows)

    airflow.until(all_there, "three windows are done", 240)
    entries = [entry.run for entry in Ledger(laptop.store("backfilled")).entries() if entry.run in windows]
    assert entries == windows, "in the order of time, each once"
    first = laptop.identities("backfilled", windows[0])
    run = airflow.trigger("backfilled", {"run": windows[0]})
    assert airflow.finished("backfilled", run) == ALL_DONE
    assert laptop.identities("backfilled", windows[0]) == first


def asked(airflow: Airflow, name: str) -> tuple[str, dict[str, Any]]:
    """Lets the schedule start a run and waits until it asks; gives the run and the question."""
    airflow.unpause(name)
    (found,) = airflow.until(lambda: airflow.runs(name), "the schedule starts a run")
    assert found["run_type"] == "scheduled"
    run = str(found["dag_run_id"])
    path = f"/dags/{name}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    return run, airflow.until(lambda: airflow.call("GET", path), f"{name} asks", 180)


def answer(airflow: Airflow, name: str, run: str, choice: str) -> None:
    path = f"/dags/{name}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    airflow.call("PATCH", path, {"chosen_options": [choice], "params_input": {}})


def test_an_approved_challenger_is_promoted_in_the_name_of_who_approved(
    airflow: Airflow, laptop: Laptop, told: list[dict[str, Any]]
) -> None:
    run, question = asked(airflow, "approved")
    assert registered(laptop, "approved") == 0
    assert any(f"approved: a challenger waits for approval in {run}" in notice["text"] for notice in told)
    assert question["body"].startswith("f1_macro 0.9000 is better")
    assert "| f1_macro&nbsp;&nbsp; | 0.900&nbsp;&nbsp; | 0.880 |" in question["body"]
    assert "report.html" in question["body"]
    assert question["defaults"] == ["Reject"]
    answer(airflow, "approved", run, "Approve")
    assert airflow.finished("approved", run) == {**ALL_DONE, "approve": "success"}
    store = laptop.store("approved")
    (entry,) = Ledger(store).entries()
    record = approval.of(store, model=entry.model, evaluation=entry.evaluation)
    assert record is not None
    assert entry.who == f"airflow {run}, approved by {record.who}"
    assert snapshot.of_run(store, entry.run).promotion == "approval", "the recipe is the one that people wrote"
    assert len(store.names("recipes")) == 1


def test_a_cleared_approval_asks_again(airflow: Airflow, laptop: Laptop) -> None:
    ((run, path),) = [
        (run["dag_run_id"], f"/dags/approved/dagRuns/{run['dag_run_id']}/taskInstances/approve/-1/hitlDetails")
        for run in airflow.runs("approved")
    ]
    cleared = {"dry_run": False, "dag_run_id": run, "task_ids": ["approve"], "include_downstream": True}
    airflow.call("POST", "/dags/approved/clearTaskInstances", {**cleared, "only_failed": False})
    airflow.until(lambda: not airflow.call("GET", path)["response_received"], "it asks again")
    answer(airflow, "approved", run, "Reject")
    assert airflow.finished("approved", run) == {
        **ALL_DONE,
        "approve": "success",
        "promote": "skipped",
        "deploy": "skipped",
    }
    assert registered(laptop, "approved") == 1


def test_a_rejected_challenger_is_not_promoted(airflow: Airflow, laptop: Laptop) -> None:
    run, _ = asked(airflow, "rejected")
    answer(airflow, "rejected", run, "Reject")
    states = airflow.finished("rejected", run)
    assert (states["promote"], states["deploy"]) == ("skipped", "skipped")
    assert registered(laptop, "rejected") == 0


def test_data_that_lands_starts_one_run(airflow: Airflow, laptop: Laptop) -> None:
    airflow.unpause("landed")
    assert airflow.runs("landed") == []
    (laptop.folder / "landing/rows.csv").write_text("text,label\ngood,positive\n")
    (run,) = airflow.until(lambda: airflow.runs("landed"), "the landing starts a run", 180)
    assert run["run_type"] == "asset_triggered"
    assert airflow.finished("landed", run["dag_run_id"]) == ALL_DONE
    assert registered(laptop, "landed") == 1
    assert len(airflow.runs("landed")) == 1


def test_links_and_logs_help_who_looks(airflow: Airflow, laptop: Laptop) -> None:
    run = airflow.runs("killed")[0]["dag_run_id"]
    task = f"/dags/killed/dagRuns/{run}/taskInstances"
    assert airflow.call("GET", f"{task}/deploy/links")["extra_links"] == {
        "Triton model": "http://127.0.0.1:8000/v2/models/killed"
    }
    assert airflow.call("GET", f"{task}/evaluate/links")["extra_links"]["Report"].endswith("/report.html")
    assert airflow.call("GET", f"{task}/validate/links")["extra_links"]["Data page"].endswith("/data.html")
    logs = [file.read_text() for file in laptop.home.glob("logs/dag_id=killed/*/task_id=validate/attempt=1.log")]
    assert any("progress 0.500 half way" in log for log in logs), "the run that was not all cache hits"
    assert all("validate: done: " in log and "f1_macro" in log for log in logs), "what came out"


def test_people_are_told_when_a_run_is_not_over_at_its_deadline(airflow: Airflow, told: list[dict[str, Any]]) -> None:
    run = airflow.trigger("late", when=MONDAY)
    sentence = f"late: run {run} is not over at its deadline"
    airflow.until(lambda: any(sentence in notice["text"] for notice in told), "the notice comes")
    assert airflow.finished("late", run) == ALL_DONE
    assert sum(sentence in notice["text"] for notice in told) == 1
