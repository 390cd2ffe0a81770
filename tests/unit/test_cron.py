"""Which instant of a schedule was due last, in any zone and on any day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft import cron
from tests.schedules import CRONS, DAYS, HOURLY, HOURS, MINUTES, ZONES, changes, instants, kept

BERLIN = ZoneInfo("Europe/Berlin")
some_zone = st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))


def due(expression: str, at: str, zone: str = "Europe/Berlin") -> str:
    found = cron.due(expression, ZoneInfo(zone), datetime.fromisoformat(f"{at}:00+00:00"))
    return found.strftime("%Y-%m-%dT%H:%M")


def test_what_is_due_now_is_due() -> None:
    assert due("0 3 * * 1", "2026-11-23T02:00") == "2026-11-23T02:00"
    assert due("0 3 * * 1", "2026-11-23T01:59") == "2026-11-16T02:00"
    exact = datetime(2026, 11, 23, 2, 0, 0, tzinfo=UTC)
    assert cron.due("0 3 * * 1", BERLIN, exact + timedelta(microseconds=1)) == exact
    assert cron.due("0 3 * * 1", BERLIN, exact - timedelta(microseconds=1)) == exact - timedelta(weeks=1)


def test_a_time_that_clocks_skip_is_due_as_long_after_the_change() -> None:
    """As in Airflow: 02:30 on 29 March 2026 is 03:30 summer time, 01:30 UTC."""
    assert due("30 2 * * *", "2026-03-29T01:29") == "2026-03-28T01:30"
    assert due("30 2 * * *", "2026-03-29T01:30") == "2026-03-29T01:30"
    assert due("30 2 * * *", "2026-03-29T23:00") == "2026-03-29T01:30"
    assert due("30 2 * * 0", "2026-04-02T12:00") == "2026-03-29T01:30", "for the week after it, too"
    assert due("30 2 * * *", "2026-03-30T00:30") == "2026-03-30T00:30"


def test_a_time_that_comes_twice_is_due_the_second_time() -> None:
    """As in Airflow: 02:30 on 25 October 2026 is 00:30 and 01:30 UTC."""
    assert due("30 2 * * *", "2026-10-25T00:30") == "2026-10-24T00:30"
    assert due("30 2 * * *", "2026-10-25T01:29") == "2026-10-24T00:30"
    assert due("30 2 * * *", "2026-10-25T01:30") == "2026-10-25T01:30"
    assert due("30 2 * * 0", "2026-10-30T12:00") == "2026-10-25T01:30"


def test_every_hour_is_every_hour_when_clocks_are_set() -> None:
    for day in ("2026-03-29", "2026-10-25"):
        for hour in range(6):
            assert due("30 * * * *", f"{day}T{hour:02}:45") == f"{day}T{hour:02}:30"


def test_zones_of_half_and_three_quarters_of_an_hour() -> None:
    assert due("0 3 * * *", "2026-11-24T12:00", "Asia/Kathmandu") == "2026-11-23T21:15"
    assert due("0 3 * * *", "2026-11-24T12:00", "Asia/Kolkata") == "2026-11-23T21:30"
    assert due("15 2 * * *", "2026-10-03T18:00", "Australia/Lord_Howe") == "2026-10-03T15:45", "02:15 is 02:45 that day"
    assert due("45 1 * * *", "2026-04-05T00:00", "Australia/Lord_Howe") == "2026-04-04T15:15", "01:45 comes twice"


def shown(expression: str, zone: ZoneInfo, at: datetime) -> bool:
    """Whether the minute on the clocks is one of the schedule."""
    from croniter import croniter

    return bool(croniter.match(expression, at.astimezone(zone).replace(tzinfo=None)))


@pytest.mark.parametrize("zone", ZONES)
def test_it_is_a_time_of_the_schedule_and_the_last_one(zone: str) -> None:
    """Compared with the clocks of the zone, minute by minute, on days on which none is set."""
    there, far = ZoneInfo(zone), timedelta(days=2)
    for at in instants(zone, count=3):
        if any(abs(at - change) < far for change in changes(zone, 2026)):
            continue
        for expression in (*CRONS[:9], *HOURLY):
            found = cron.due(expression, there, at)
            assert found <= at
            assert shown(expression, there, found) or any(abs(found - change) < far for change in changes(zone, 2026))
            passed = int(min(at - found, timedelta(hours=4)).total_seconds() // 60)
            assert not any(shown(expression, there, at - timedelta(minutes=minute)) for minute in range(passed))


@given(
    st.sampled_from([*CRONS, *HOURLY]),
    some_zone,
    st.datetimes(datetime(2024, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_a_run_has_one_name_from_when_it_is_due_until_the_next_is(
    expression: str, zone: str, at: datetime, later: timedelta
) -> None:
    found = cron.due(expression, ZoneInfo(zone), at)
    assert found <= at
    assert found.second == found.microsecond == 0
    assert cron.due(expression, ZoneInfo(zone), found) == found, "at the instant itself"
    after = cron.due(expression, ZoneInfo(zone), at + later)
    assert after == found or at < after <= at + later, "and nothing becomes due afterwards"


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("0 * * * 1-5", "UTC"),
        ("0 * * * 1-5", "Asia/Kolkata"),
        ("0 0-22 * * 1-5", "Europe/Berlin"),
        ("30 */2 * * mon-fri", "America/New_York"),
        ("0 * * * *", "Europe/Berlin"),
        ("0 * * * 0", "Europe/Berlin"),  # clocks are set on Sundays, between two of its runs
        ("0 * * 4-9 *", "Europe/Berlin"),  # it begins and ends in summer time
        ("*/15 * * * *", "Australia/Lord_Howe"),
    ],
)
def test_a_schedule_of_chosen_days_or_hours_is_refused_only_where_airflow_loses_its_step(
    expression: str, zone: str
) -> None:
    assert kept(expression, zone)


SUNDAYS = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Chicago",
    "Australia/Sydney",
    "Pacific/Auckland",
]
"""Zones that set their clocks on Sundays; others do so on the days of schedules, or beside them."""


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(MINUTES), st.sampled_from(HOURS), st.sampled_from(DAYS), st.sampled_from(SUNDAYS) | some_zone)
def test_chosen_days_of_every_hour_need_clocks_that_stay(minutes: str, hours: str, days: str, zone: str) -> None:
    """tests/airflow asks Airflow itself; here is what a person can tell beforehand."""
    expression, every_hour = f"{minutes} {hours} {days}", hours in ("*", "*/1", "0-23")
    if not any(changes(zone, year) for year in (2026, 2027)):
        assert kept(expression, zone)
    elif zone in SUNDAYS and days in ("* * 1-5", "* * mon-fri", "1 * *") and every_hour:
        assert not kept(expression, zone)
    elif zone.split("/")[-1] not in ("Lord_Howe", "LHI", "Troll", "Chatham", "NZ-CHAT"):
        assert kept(expression, zone) or (every_hour and days != "* * *")
