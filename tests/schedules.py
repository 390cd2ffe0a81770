"""Schedules that are hard: zones whose clocks are set by an hour or less, at odd times, and crons near that."""

from __future__ import annotations

import functools
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

# Berlin, New York and Santiago by an hour, Lord Howe by half of one, Chatham and Kathmandu at 45 minutes, Casablanca
# twice more a year, Dublin with a negative winter time, Troll by two hours.
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
