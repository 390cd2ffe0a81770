"""Cron expressions: what every runner's cron reads in the same way, and which instant of a schedule was due last.

There are as many dialects as programs, and a recipe runs on several: what one of them cannot take, or would run at
other times, is refused with the recipe.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

LONGEST = 100
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Name, smallest and largest value, names of values.
FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(MONTHS, 1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(DAYS)}),
)
NEAR = timedelta(days=2)
"""Clocks are set by less than this."""
MINUTE = timedelta(minutes=1)
YEARS = range(2026, 2038)
"""Changes of clocks that are looked at: each date falls on each day of the week in them."""


def expression(text: str) -> str:
    """The expression with one blank between its fields and Sunday as 0, which is 7 in some crons only.

    Raises:
        ValueError: it is none, not all runners understand it, or it names no date that exists.
    """
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"{text!r} is not a five-field cron expression, such as '0 3 * * 1'")
    if len(text) > LONGEST:
        raise ValueError(f"a cron expression of {len(text)} characters; at most {LONGEST}")
    values = [_values(text, fields[i], *FIELDS[i]) for i in range(5)]
    if 7 in values[4]:
        values[4] = (values[4] - {7}) | {0}
        fields[4] = ",".join(str(day) for day in sorted(values[4]))
    day, weekday = fields[2], fields[4]
    # Two days are joined by "or", but not where one of them is a star. Crons differ in what else counts as a star.
    if day != "*" and weekday != "*":
        for field, days, size in ((day, values[2], 31), (weekday, values[4], 7)):
            if "*" in field or len(days) == size:
                raise ValueError(
                    f"{text!r}: with both days given, {field!r} means other dates to Airflow than to Kubeflow; "
                    "write '*' for every day, or list the days"
                )
    written = " ".join(fields)
    from croniter import CroniterBadDateError, croniter

    try:
        croniter(written, datetime(2024, 1, 1), max_years_between_matches=10).get_next(datetime)
    except CroniterBadDateError as error:
        raise ValueError(f"{text!r} names no date that exists, such as 30 February") from error
    return written


def _values(text: str, field: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    """The values that a field names."""
    values: set[int] = set()
    for item in field.split(","):
        match = re.fullmatch(r"(?:\*|([0-9]+|[A-Za-z]{3})(?:-([0-9]+|[A-Za-z]{3}))?)(?:/([0-9]+))?", item)
        if not match:
            raise ValueError(
                f"{text!r}: {item!r} is no {name} that every runner's cron knows; "
                "write numbers, ranges such as 1-5, lists such as 1,15 or steps such as */2"
            )
        ends = [int(end[:4]) if end.isdigit() else names.get(end.lower(), -1) for end in match.groups()[:2] if end]
        first, last = (ends[0], ends[-1]) if ends else (low, 6 if high == 7 else high)
        if any(not low <= end <= high for end in ends):
            raise ValueError(f"{text!r}: {item!r} is no {name}; it is from {low} to {high}")
        if len(ends) == 2 and first >= last:
            raise ValueError(
                f"{text!r}: the range {item!r} does not rise; write one number, or two ranges such as 22-23,0-2"
            )
        step = int(match[3][:4]) if match[3] else 1
        if not 1 <= step <= high:
            raise ValueError(f"{text!r}: the step of {item!r} must be from 1 to {high}")
        if match[3] and len(ends) == 1:
            raise ValueError(f"{text!r}: a step needs a range; write {first}-{high}/{step} instead of {item!r}")
        values |= set(range(first, last + 1, step))
    return values


def in_step(expression: str, zone: ZoneInfo) -> None:
    """Refuses a schedule that Airflow would run at other times, or not at all, once clocks have been set.

    Args:
        expression: as `expression` gives it.

    Raises:
        ValueError: it is such a schedule.
    """
    from croniter import croniter

    hourly = _hourly(croniter(expression))
    strays = _strays_from_every_hour if hourly else _strays_from_listed_hours
    alike = expression.endswith(" * * *")  # all days: then one change each way tells it
    for change in _changes(zone)[:2] if alike else _changes(zone):
        if strays(expression, zone, change):
            way = "name fewer hours, such as 0-22, or " if hourly else ""
            raise ValueError(
                f"{expression!r}: when clocks are set in {zone.key}, as on {change.astimezone(zone):%Y-%m-%d}, Airflow "
                f"would lose runs of it, or make one twice; {way}write timezone: UTC"
            )


def _strays_from_every_hour(expression: str, zone: ZoneInfo, change: datetime) -> bool:
    """Airflow goes from one run to the next, and back, by as long as it would be on clocks that are never set.

    That leads elsewhere where they are set while the schedule pauses, or by a part of an hour after which its minutes
    are others.
    """
    from croniter import croniter

    last = due(expression, zone, change - MINUTE)
    before, after = _wall(last, zone), _wall(change, zone)
    following = last + (croniter(expression, before).get_next(datetime) - before)
    preceding = change - (after - croniter(expression, after).get_prev(datetime))
    return due(expression, zone, following) != following or due(expression, zone, preceding) != last


def _strays_from_listed_hours(expression: str, zone: ZoneInfo, change: datetime) -> bool:
    """Airflow goes by what clocks show, so that a time which they skip is not last where it comes after a later one."""
    from croniter import croniter

    after = _wall(change, zone)
    skip = after - _wall(change - MINUTE, zone) - MINUTE
    if skip == timedelta(hours=1) and after.minute == 0:  # the later one is followed by one at the same minute
        return False
    later = croniter(expression, after - MINUTE).get_next(datetime)
    skipped = takewhile(lambda time: time < after, croniter(expression, after - skip - MINUTE).all_next(datetime))
    return any(later < time + skip and not croniter.match(expression, time + skip) for time in skipped)


def _hourly(times: Any) -> bool:
    """Whether croniter's schedule is one of every hour, to Airflow too."""
    return bool(times.expanded[1] == ["*"])


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    """What clocks of a zone show."""
    return at.astimezone(zone).replace(tzinfo=None)


@cache
def _changes(zone: ZoneInfo) -> tuple[datetime, ...]:
    """When clocks of a zone are set in YEARS, to the minute."""

    def offset(minutes: int) -> timedelta | None:
        return (start + minutes * MINUTE).astimezone(zone).utcoffset()

    start, week = datetime(YEARS.start, 1, 1, tzinfo=UTC), 7 * 24 * 60
    changes = []
    for first in range(0, len(YEARS) * 52 * week, week):
        before = offset(first)
        if offset(first + week) != before:
            minutes = range(first, first + week + 1)
            changes.append(start + minutes[bisect_left(minutes, True, key=lambda at: offset(at) != before)] * MINUTE)
    return tuple(changes)


def due(expression: str, zone: ZoneInfo, at: datetime) -> datetime:
    """The last instant of a schedule that is not after `at`, in UTC: the one rule of all runners, Airflow's own.

    A time that clocks skip is as long after the change as it would have been after the hour before; a time that comes
    twice is the second one, but a schedule of every hour takes both.

    Args:
        expression: as `expression` gives it.
        at: an aware instant, which may be due itself.
    """
    from croniter import croniter

    at = at.astimezone(UTC)
    wall = _wall(at, zone).replace(second=0, microsecond=0)
    offsets = [(at + way).astimezone(zone).utcoffset() or timedelta(0) for way in (-NEAR, timedelta(0), NEAR)]
    margin = max(offsets) - min(offsets)  # by what clocks are set around here
    # Backwards from here; croniter never gives the time it starts at.
    times = croniter(expression, wall + margin + timedelta(seconds=1))
    hourly = _hourly(times)
    last: datetime | None = None
    while True:
        time: datetime = times.get_prev(datetime)
        for instant in _instants(time, zone, both=hourly):
            if instant <= at and (last is None or instant > last):
                last = instant
        if last is not None and time <= _wall(last, zone) - margin:
            return last


def _instants(time: datetime, zone: ZoneInfo, *, both: bool) -> tuple[datetime, ...]:
    """When clocks of a zone show a time, in UTC; for a time that they skip, what they show instead."""
    first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first < second:  # clocks are set back
        return (first, second) if both else (second,)
    return (first,)  # once; or never, and then `second` would be before the change
