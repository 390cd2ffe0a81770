"""The list of steps, and the names of runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft import pipeline, recipe, tasks
from regraft.errors import BadInput
from regraft.parts import Schedule
from tests.unit.test_recipe import MINIMAL

RECIPE = recipe.parse(MINIMAL)
WEEKLY = RECIPE.model_copy(update={"schedule": Schedule(cron="0 3 * * 1", timezone="Europe/Berlin")})


def test_a_step_needs_only_steps_before_it() -> None:
    seen: set[str] = set()
    for step in pipeline.STEPS:
        assert set(step.needs) <= seen
        seen.add(step.name)


def test_the_code_of_every_step_is_digested_from_its_own_files() -> None:
    digests = {step.name: pipeline.code_digest(step, RECIPE.task) for step in pipeline.STEPS}
    assert len(set(digests.values())) == len(pipeline.STEPS)


def test_a_run_is_named_by_the_last_time_of_the_schedule_in_utc() -> None:
    assert pipeline.run_id(WEEKLY, datetime(2026, 11, 24, 12, tzinfo=UTC)) == "2026-11-23T02-00"
    assert pipeline.run_id(WEEKLY, datetime(2026, 7, 1, 12, tzinfo=UTC)) == "2026-06-29T01-00"


def test_without_a_schedule_a_run_is_named_by_the_day() -> None:
    assert pipeline.run_id(RECIPE, datetime(2026, 11, 24, 23, 59, tzinfo=UTC)) == "2026-11-24T00-00"


@given(st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_two_runs_within_one_interval_are_the_same_run(now: datetime) -> None:
    run = pipeline.run_id(WEEKLY, now)
    assert pipeline.run_time(run) <= now
    later = min(now, pipeline.run_time(run).replace(tzinfo=UTC))
    assert (now - later).days <= 7


@pytest.mark.parametrize(
    "run", ["today", "2026-11-24", "2026-11-24T03:00", "2026-13-24T03-00", "../2026-11-24T03-00", "0001-01-01T00-00"]
)
def test_what_is_no_run_id_is_refused(run: str) -> None:
    with pytest.raises(BadInput, match="is not a run id"):
        pipeline.run_time(run)


def test_a_label_makes_another_run_of_the_same_window() -> None:
    assert pipeline.run_time("2026-11-24T03-00.try-2") == pipeline.run_time("2026-11-24T03-00")


def test_the_pipeline_of_a_task_that_is_not_served_ends_with_promote() -> None:
    served, others = ([t for t in tasks.names() if tasks.served(t) == is_served] for is_served in (True, False))
    assert served
    assert others
    for task in served:
        assert pipeline.steps(task) == pipeline.STEPS
        assert list(pipeline.followers(task)) == ["Triton", "MLflow"]
    for task in others:
        assert [step.name for step in pipeline.steps(task)] == ["validate", "finetune", "evaluate", "promote"]
        assert list(pipeline.followers(task)) == ["MLflow"]
