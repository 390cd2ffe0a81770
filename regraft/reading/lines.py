"""What the readers of lines have in common: rows of a file, and those among them that cannot be parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

BLOCK_BYTES = 32 << 20
"""Bytes that are parsed at once, and so the length of the longest line."""
FIRST_LINES = 1000
"""A file whose first lines are all malformed is not of its format."""
KEPT = 1000
"""Bytes that are kept of a malformed line."""
LONG = 100
"""Lines that a value may span before it is looked at twice."""

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


@dataclass
class Spans:
    """Rows that span several lines of CSV or TSV, because a quoted value does, over all files.

    Attributes:
        file: name of the one that is being read.
        rows, several: how many rows there are, and how many of them span several lines.
        where, longest: the one that spans most lines, and how many.
        others: how many any other spans at most.
    """

    file: str = ""
    rows: int = 0
    several: int = 0
    where: str = ""
    longest: int = 1
    others: int = 1

    def add(self, first: int, lines: Any) -> None:
        """Counts rows of the file, of which `first` is the first one's number."""
        import numpy as np

        several = np.flatnonzero(lines > 1)
        self.rows += len(lines)
        self.several += len(several)
        for i in several[np.argsort(-lines[several], kind="stable")[:2]].tolist():
            if lines[i] > self.longest:
                self.others, self.longest = self.longest, int(lines[i])
                self.where = f"row {first + i} of {self.file}"
            else:
                self.others = max(self.others, int(lines[i]))

    @property
    def unusual(self) -> bool:
        """Whether the longest row may be several that an open quote has joined."""
        return self.longest > 10 * self.others or (self.longest > LONG and 10 * self.several < self.rows)

    @property
    def sentence(self) -> str:
        """Empty where each row is a line."""
        if not self.several:
            return ""
        rows = f"{self.several:,} of {self.rows:,} rows span{'s' * (self.several == 1)} several lines"
        doubt = "; where its quote is open by mistake, mend it, or write `quoting: none` below `data:` in the recipe"
        most = f"{self.where} {self.longest:,}, no other more than {self.others:,}"
        return f"{rows}: {most}{doubt * self.unusual}"


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
