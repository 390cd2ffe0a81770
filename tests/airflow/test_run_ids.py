"""A run has one id on every runner: that of Airflow's own timetable, where clocks are set and elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from regraft import cron, pipeline, recipe
from regraft.parts import Schedule
from regraft.recipe import Recipe
from tests.airflow.laptop import MINIMAL
from tests.schedules import CRONS, HOURLY, ZONES, changes, instants

# With steps of half an hour Airflow's own schedule of every hour depends on where it began.
WHOLE_HOURS = [zone for zone in ZONES if zone != "Australia/Lord_Howe"]


def scheduled(expression: str, zone: str) -> Recipe:
    return recipe.parse(MINIMAL).model_copy(update={"schedule": Schedule(cron=expression, timezone=zone)})


def timetable(expression: str, zone: str) -> Any:
    from airflow.timetables.interval import CronDataIntervalTimetable

    return CronDataIntervalTimetable(expression, timezone=zone)


def intervals(expression: str, zone: str, start: datetime, end: datetime) -> list[Any]:
    """The runs that Airflow's scheduler makes between two instants, one after the other."""
    import pendulum
    from airflow.timetables.base import TimeRestriction

    table = timetable(expression, zone)
    first = pendulum.instance(cron.due(expression, ZoneInfo(zone), start))
    made, last = [], None
    while True:
        info = table.next_dagrun_info(
            last_automated_data_interval=last, restriction=TimeRestriction(earliest=first, latest=None, catchup=True)
        )
        if info.run_after > end:
            return made
        made.append(info)
        last = info.data_interval


def in_airflow(declared: Recipe, interval: Any, run_after: datetime) -> str:
    from regraft.runners.airflow_form import run_of

    return run_of(declared, SimpleNamespace(data_interval_end=interval.end, run_after=run_after), {})


@pytest.mark.parametrize(
    ("zone", "expression"),
    [(zone, expression) for zone in ZONES for expression in CRONS]
    + [(zone, expression) for zone in WHOLE_HOURS for expression in HOURLY[:3]],
)
def test_a_run_that_airflow_schedules_has_the_id_that_the_others_give_it(zone: str, expression: str) -> None:
    declared = scheduled(expression, zone)
    for change in changes(zone, 2026) or [datetime(2026, 3, 29, 1, tzinfo=UTC)]:
        near = timedelta(hours=4) if expression in HOURLY else timedelta(days=9)
        for info in intervals(expression, zone, change - near, change + near):
            due = info.data_interval.end
            run = due.strftime(pipeline.RUN_FORMAT)
            assert in_airflow(declared, info.data_interval, info.run_after) == run
            assert pipeline.run_id(declared, due) == run, "Kubeflow's scheduled time is the due instant itself"
            assert pipeline.run_id(declared, due + timedelta(seconds=59)) == run, "regraft run, just after it"


@pytest.mark.parametrize("zone", ZONES)
def test_a_run_by_hand_has_the_id_that_regraft_run_gives_it(zone: str) -> None:
    import pendulum

    for expression in (*CRONS, *HOURLY):
        declared, table = scheduled(expression, zone), timetable(expression, zone)
        for at in instants(zone, count=2):
            interval = table.infer_manual_data_interval(run_after=pendulum.instance(at))
            assert in_airflow(declared, interval, at) == pipeline.run_id(declared, at), at
