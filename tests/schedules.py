"""Schedules that are hard: zones whose clocks are set by an hour or less, at odd times, and crons near that."""

from __future__ import annotations

import functools
import itertools
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from regraft import cron

# Berlin, New York and Santiago by an hour, Lord Howe by half of one, Chatham and Kathmandu at 45 minutes, Casablanca
# twice more a year, Dublin with a negative winter time, Troll by two hours; Cairo and Nuuk at midnight.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Africa/Casablanca",
    "Europe/Dublin",
    "Antarctica/Troll",
    "America/St_Johns",
    "Africa/Cairo",
    "America/Nuuk",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "UTC",
)
CRONS = (
    "30 2 * * *",
    "0 3 * * 1",
    "30 2 * * 0",
    "45 1 * * *",
    "15 2,3 * * *",
    "0 0 * * *",
    "0 2 * * 6,0",
    "*/20 1-4 * * *",
    "0 */2 * * *",
    "30 2 1 * *",
    "0 0 29 2 *",
    "59 23 31 12 *",
    "0 2 25 10 *",
)
HOURLY = ("0 * * * *", "30 * * * *", "*/15 * * * *", "* * * * *")
"""Of every hour: these take both times where clocks are set back."""
MINUTES = ("0", "30", "15,45", "*/20", "*/15", "59")
HOURS = ("*", "*/1", "0-23", "0-22", "*/2", "1-3", "2", "0,2,3", "23,0")
DAYS = ("* * 1-5", "* * mon-fri", "* * 0", "* * 6", "1 * *", "25-31 3,10 *", "* 11 *", "* 4-9 *", "1 * 1", "* * *")


def kept(expression: str, zone: str) -> bool:
    """Whether a recipe may have this schedule."""
    try:
        cron.in_step(cron.expression(expression), ZoneInfo(zone))
    except ValueError:
        return False
    return True


def generated(zone: str, *, hold: bool, count: int) -> list[str]:
    """Schedules of all kinds of minutes, hours and days that recipes may have in a zone, or that they may not."""
    everything = [" ".join(fields) for fields in itertools.product(MINUTES, HOURS, DAYS)]
    random.Random(zone).shuffle(everything)
    written = map(cron.expression, everything)
    return list(itertools.islice((expression for expression in written if kept(expression, zone) == hold), count))


@functools.cache
def changes(zone: str, year: int) -> list[datetime]:
    """When clocks of a zone are set, to the hour before."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(366 * 24)]
    there = ZoneInfo(zone)
    offsets = [hour.astimezone(there).utcoffset() for hour in hours]
    return [hours[i] for i in range(len(hours) - 1) if offsets[i] != offsets[i + 1]]


def instants(zone: str, *, seed: int = 0, count: int = 12) -> list[datetime]:
    """Instants around each change of clocks, and some others."""
    chance = random.Random(f"{zone} {seed}")
    near = changes(zone, 2026) or [datetime(2026, 3, 29, 1, tzinfo=UTC)]
    found = [at + timedelta(minutes=chance.randint(-3000, 3000)) for at in near for _ in range(count)]
    return found + [
        datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randint(0, 500_000)) for _ in range(count)
    ]
