"""A run has one id on every runner: that of Airflow's own timetable, where clocks are set and elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from regraft import cron, pipeline, recipe
from regraft.parts import Recipe, Schedule
from tests.airflow.laptop import MINIMAL
from tests.schedules import CRONS, HOURLY, ZONES, changes, generated, instants, kept


def scheduled(expression: str, zone: str) -> Recipe:
    """A recipe with a schedule, also one that recipes may not have."""
    schedule = Schedule.model_construct(cron=expression, timezone=zone)
    return recipe.parse(MINIMAL).model_copy(update={"schedule": schedule})


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
    [(zone, expression) for zone in ZONES for expression in (*CRONS, *HOURLY[:3]) if kept(expression, zone)],
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

    for expression in filter(lambda expression: kept(expression, zone), (*CRONS, *HOURLY)):
        declared, table = scheduled(expression, zone), timetable(expression, zone)
        for at in instants(zone, count=2):
            interval = table.infer_manual_data_interval(run_after=pendulum.instance(at))
            assert in_airflow(declared, interval, at) == pipeline.run_id(declared, at), at


def strays(expression: str, zone: str, change: datetime, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with the runs that Airflow makes around a change of clocks, by its schedule and by hand.

    Of several runs in the hours that clocks skip or show twice it may leave some out, where hours are listed.
    """
    import pendulum
    from airflow.timetables.base import TimeRestriction

    declared, table, near = scheduled(expression, zone), timetable(expression, zone), timedelta(hours=3)
    first = cron.due(expression, ZoneInfo(zone), change - near)
    every_hour = expression.split()[1] in ("*", "*/1", "0-23")

    def following(last: Any, end: datetime, *, now: datetime, catchup: bool) -> Any:
        monkeypatch.setattr("airflow.timetables.interval.utcnow", lambda: pendulum.instance(now))
        earliest = pendulum.instance(first if catchup else first - timedelta(days=800))
        info = table.next_dagrun_info(
            last_automated_data_interval=last,
            restriction=TimeRestriction(earliest=earliest, latest=None, catchup=catchup),
        )
        after = info.data_interval.end
        assert not last or after > end, f"after {end} comes {after}"
        run = after.strftime(pipeline.RUN_FORMAT)
        assert in_airflow(declared, info.data_interval, info.run_after) == run, f"{after} has another id"
        assert pipeline.run_id(declared, after) == run, f"{after} has another id elsewhere"
        before = cron.due(expression, ZoneInfo(zone), after - timedelta(minutes=1))
        assert not last or not every_hour or before == end, f"the run of {before} is lost"
        return info

    try:
        for catchup in (True, False):
            last, end = None, first
            while end < change + near:
                info = following(last, end, now=end, catchup=catchup)
                following(last, end, now=max(end, end + (info.data_interval.end - end) / 2), catchup=catchup)
                last, end = info.data_interval, info.data_interval.end
        for minutes in (*range(-100, 200, 13), 20_000, 100_000, 200_000):
            at = change + timedelta(minutes=minutes)
            interval = table.infer_manual_data_interval(run_after=pendulum.instance(at))
            assert in_airflow(declared, interval, at) == pipeline.run_id(declared, at), f"another id by hand at {at}"
    except (ValueError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("zone", [zone for zone in ZONES if changes(zone, 2026)])
def test_airflow_keeps_in_step_with_every_schedule_that_a_recipe_may_have(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expression in generated(zone, hold=True, count=5):
        for change in (*changes(zone, 2026), *changes(zone, 2027)):
            assert not strays(expression, zone, change, monkeypatch), f"{expression} at {change}"


@pytest.mark.parametrize("zone", [zone for zone in ZONES if changes(zone, 2026)])
def test_a_schedule_is_refused_only_where_airflow_does_not_keep_in_step(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expression in generated(zone, hold=False, count=3):
        found = (strays(expression, zone, change, monkeypatch) for year in cron.YEARS for change in changes(zone, year))
        assert any(found), f"{expression} is refused for nothing"
