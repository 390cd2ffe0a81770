"""What the readers of lines have in common: rows of a file, and those among them that cannot be parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

BLOCK_BYTES = 32 << 20
"""Bytes that are parsed at once, and so the length of the longest line."""
FIRST_LINES = 1000
"""A file whose first lines are all malformed is not of its format."""
KEPT = 1000
"""Bytes that are kept of a malformed line."""

Present = Callable[[list[str]], list[str]]
"""Gives the wanted ones of a file's columns, or raises BadInput."""


class Malformed(NamedTuple):
    """A line that cannot be parsed."""

    row: int
    content: bytes
    why: str


class Part(NamedTuple):
    """Rows of a file.

    Attributes:
        table: their values.
        rows: their numbers, from 1: of rows, in JSON Lines of lines.
        malformed: lines that cannot be parsed, by their index in the table, where they are null in every column.
    """

    table: Any
    rows: Any
    malformed: dict[int, Malformed]


def placed(table: Any, rows: Any, malformed: list[Malformed]) -> Part:
    """The rows that could be parsed, with a row of nulls for each that could not."""
    import numpy as np
    import pyarrow as pa

    if not malformed:
        return Part(table, rows, {})
    places = np.searchsorted(rows, [line.row for line in malformed])
    missing = np.zeros(len(rows), dtype=bool)
    missing[places] = True
    taken = pa.array(np.cumsum(~missing) - 1, mask=missing)
    return Part(table.take(taken), rows, dict(zip(places.tolist(), malformed, strict=True)))
