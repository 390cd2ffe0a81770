"""What becomes of a run in Airflow, by `dag.test()`: tasks in this process, steps as real processes."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from regraft import snapshot
from regraft.ledger import Entry, Ledger
from regraft.runners import airflow_step
from tests.airflow.conftest import load
from tests.airflow.laptop import STEPS_PYTHON, Laptop, slack

pytestmark = pytest.mark.usefixtures("database")
MONDAY = datetime(2026, 11, 23, 2, tzinfo=UTC)
RUN = "2026-11-23T02-00"


def run(name: str, conf: dict[str, Any] | None = None, when: datetime = MONDAY) -> dict[str, str]:
    """Runs a recipe's DAG and gives the state of each task."""
    dag = load("retrain.py")[name]
    dag.deadline = None  # Airflow 3.3's dag.test() cannot end a run with one; tests/airflow/test_scheduler.py keeps it
    done = dag.test(logical_date=when, run_conf=conf)
    return {task.task_id: str(task.state) for task in done.get_task_instances()}


def states(*values: str) -> dict[str, str]:
    return dict(zip(("validate", "finetune", "evaluate", "promote", "deploy"), values, strict=True))


def ledger(laptop: Laptop, name: str) -> list[Entry]:
    return Ledger(laptop.store(name)).entries()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    with slack() as (address, told):
        monkeypatch.setenv("REGRAFT_WEBHOOK", address)
        yield told


def test_a_run_promotes_and_a_second_one_of_its_window_is_all_cache_hits(laptop: Laptop) -> None:
    laptop.recipe("done")
    assert run("done") == states(*["success"] * 5)
    first, worked = laptop.identities("done", RUN), laptop.log()
    (entry,) = ledger(laptop, "done")
    assert entry.who.startswith("airflow manual__")
    assert run("done") == states(*["success"] * 5)
    assert laptop.identities("done", RUN) == first
    assert laptop.log() == worked, "nothing worked again"


def test_airflow_and_the_local_runner_give_the_same_identities(laptop: Laptop) -> None:
    laptop.recipe("same")
    code = (
        "from unittest.mock import MagicMock; from regraft.runners import local; import sys\n"
        "local.run(sys.argv[1], store=sys.argv[2], run=sys.argv[3], logs=sys.argv[4], watcher=MagicMock())"
    )
    arguments = [str(laptop.recipes / "same.yaml"), laptop.environment["REGRAFT_STORE"], RUN, str(laptop.folder)]
    subprocess.run([STEPS_PYTHON, "-c", code, *arguments], check=True, capture_output=True)
    local, worked = laptop.identities("same", RUN), laptop.log()
    made_with = laptop.pointer("same", RUN, "deploy")["recipe_sha256"]
    assert run("same") == states(*["success"] * 5)
    assert laptop.identities("same", RUN) == local
    assert laptop.log() == worked, "every step was a cache hit"
    assert laptop.pointer("same", RUN, "deploy")["recipe_sha256"] == made_with
    assert laptop.store("same").names("recipes") == [f"{made_with}.yaml"], "a recipe that nobody changed, as it was"


def test_a_refused_step_and_all_after_it_are_skipped_and_people_are_told(
    laptop: Laptop, webhook: list[dict[str, Any]]
) -> None:
    laptop.recipe("refused")
    laptop.mode("evaluate", "refuse")
    assert run("refused") == states("success", "success", "skipped", "skipped", "skipped")
    assert ledger(laptop, "refused") == []
    assert len(webhook) == 1
    assert "refused: evaluate was skipped" in webhook[0]["text"]
    assert "too few rows" in webhook[0]["text"]


@pytest.mark.parametrize("mode", ["temporary once", "kill once"])
def test_what_is_temporary_is_tried_again(laptop: Laptop, mode: str) -> None:
    laptop.recipe("again")
    laptop.mode("finetune", mode)
    assert run("again") == states(*["success"] * 5)
    assert laptop.log().count(f"started finetune {RUN}") == 2
    assert len(ledger(laptop, "again")) == 1


def test_bad_input_fails_at_once_and_people_are_told(laptop: Laptop, webhook: list[dict[str, Any]]) -> None:
    laptop.recipe("bad")
    laptop.mode("validate", "bad")
    assert run("bad") == states("failed", *["upstream_failed"] * 4)
    assert laptop.log().count(f"started validate {RUN}") == 1
    assert "the data is not there" in webhook[0]["text"]
    assert "bring it" in webhook[0]["text"]


def test_a_folder_for_scratch_that_is_not_there_is_named_and_nothing_starts(
    laptop: Laptop, webhook: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop.recipe("scratch")
    monkeypatch.setenv("REGRAFT_SCRATCH", str(laptop.folder / "gone"))
    assert run("scratch") == states("failed", *["upstream_failed"] * 4)
    assert laptop.log() == []
    assert "REGRAFT_SCRATCH: the folder for temporary files does not exist" in webhook[0]["text"]


def test_a_notice_calls_nobody_and_its_line_in_the_log_steers_nothing(
    webhook: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    airflow_step.tell("unknown label <!channel> <http://evil.example|ours> & \x1b[31m\r\nlog: http://airflow/?a=1&b=2")
    assert webhook[0]["text"] == (
        "unknown label &lt;!channel&gt; &lt;http://evil.example|ours&gt; &amp; \\x1b[31m\\r\n"
        "log: http://airflow/?a=1&amp;b=2"
    )
    assert "& \\x1b[31m\\r | log: http://airflow/?a=1&b=2" in caplog.text


def test_a_dry_run_stops_before_promote(laptop: Laptop) -> None:
    laptop.recipe("dry")
    assert run("dry", {"dry_run": True}) == states("success", "success", "success", "skipped", "skipped")
    assert ledger(laptop, "dry") == []


def test_overrides_travel_as_a_recipe_and_are_a_run_of_their_own(laptop: Laptop) -> None:
    text = laptop.recipe("changed")
    run("changed")
    run("changed", {"training": {"epochs": 3}})
    (name,) = [n for n in laptop.store("changed").names("runs") if n != RUN]
    assert name.startswith(f"{RUN}.")
    written, changed = (snapshot.key_of_run(laptop.store("changed"), run) for run in (RUN, name))
    assert laptop.store("changed").read(written).decode() == text
    assert b"epochs: 3" in laptop.store("changed").read(changed)
    plain, other = laptop.identities("changed", RUN), laptop.identities("changed", name)
    assert plain["validate"] == other["validate"]
    assert plain["finetune"] != other["finetune"]


@pytest.mark.parametrize("conf", [{"training": {"epoch": 3}}, {"training": {"epochs": -1}}, {"run": "yesterday"}])
def test_the_form_refuses_what_the_schema_refuses(laptop: Laptop, conf: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    laptop.recipe("form")
    with pytest.raises((ParamValidationError, ValueError)):
        run("form", conf)
    assert laptop.log() == []


def test_force_works_again_but_keeps_what_a_champion_stands_on(laptop: Laptop) -> None:
    laptop.recipe("forced")
    run("forced")
    first = laptop.identities("forced", RUN)
    assert run("forced", {"force": True}) == states(*["success"] * 5)
    again = laptop.log()[len(laptop.log()) // 2 :]
    assert laptop.log().count(f"worked validate {RUN}") == 2
    assert laptop.log().count(f"worked finetune {RUN}") == 1, again
    assert laptop.identities("forced", RUN) == first
    assert len(ledger(laptop, "forced")) == 1


def test_a_run_of_an_earlier_window_is_asked_for_by_its_id(laptop: Laptop) -> None:
    laptop.recipe("earlier")
    run("earlier", {"run": "2026-11-02T02-00"})
    assert laptop.store("earlier").names("runs") == ["2026-11-02T02-00"]


def test_the_doctor_follows_every_recipe(laptop: Laptop) -> None:
    laptop.recipe("one")
    laptop.recipe("two")
    done = load("doctor.py")["dag"].test()
    assert {task.task_id: str(task.state) for task in done.get_task_instances()} == {
        f"{name}.{server}": "success" for name in ("one", "two") for server in ("mlflow", "triton")
    }


def test_a_store_that_hangs_holds_up_no_notice_and_no_link(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, webhook: list[dict[str, Any]]
) -> None:
    from regraft.errors import NotFound
    from regraft.runners import airflow_step
    from regraft.store import Store

    answers = threading.Event()

    def read_json(store: Store, key: str) -> Any:
        answers.wait()
        raise NotFound(key)

    monkeypatch.setattr(Store, "read_json", read_json)
    monkeypatch.setattr(airflow_step, "PATIENCE_SECONDS", 0.1)
    task = SimpleNamespace(dag=SimpleNamespace(dag_id="slow"), arguments=["--store", str(laptop.folder), "--run", "r"])
    instance = SimpleNamespace(dag_id="slow", task_id="evaluate", log_url="http://airflow/log")
    airflow_step.notice("was refused")({"task_instance": instance, "task": task})
    assert [told["text"] for told in webhook] == ["slow: evaluate was refused\nlog: http://airflow/log"]
    mlflow = "http://mlflow:5000"
    assert airflow_step.MlflowLink(mlflow).get_link(task, ti_key=None) == f"{mlflow}/#/experiments"
    assert airflow_step.ReportLink(mlflow).get_link(task, ti_key=None) == ""
    assert airflow_step.DataLink(mlflow).get_link(task, ti_key=None) == ""
    answers.set()
