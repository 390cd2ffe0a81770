"""What the readers of lines have in common: rows of a file, and those among them that cannot be parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from regraft import settings
from regraft.errors import BadInput

BATCH_ROWS, BATCH_BYTES = 16_384, 16 << 20
"""What a table has at most that is worked on at once, but for a single row that is larger."""
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


class Piece(NamedTuple):
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
class Left:
    """What a source may still hold: few bytes may unpack to any number, and fill a disk before anybody sees it."""

    rows: int
    size: int

    def take(self, *, rows: int = 0, size: int = 0) -> None:
        """Raises BadInput where that is more than is left."""
        self.rows, self.size = self.rows - rows, self.size - size
        for name, left, what in (
            (settings.ROWS, self.rows, "rows"),
            (settings.GIB, self.size, "GiB, unpacked"),
        ):
            if left < 0:
                raise BadInput(
                    f"the source has more than {settings.most(name):,} {what}, which is the most that is read here",
                    next=f"narrow data.source; whoever runs regraft may allow more: export {name}=…",
                )


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


def placed(table: Any, rows: Any, malformed: list[Malformed]) -> Piece:
    """The rows that could be parsed, with a row of nulls for each that could not."""
    import numpy as np
    import pyarrow as pa

    if not malformed:
        return Piece(table, rows, {})
    places = np.searchsorted(rows, [line.row for line in malformed])
    missing = np.zeros(len(rows), dtype=bool)
    missing[places] = True
    taken = pa.array(np.cumsum(~missing) - 1, mask=missing)
    return Piece(table.take(taken), rows, dict(zip(places.tolist(), malformed, strict=True)))


class LineCount:
    """How many lines there are in the pieces of a file, counted without regard to quotes."""

    def __init__(self, piece: bytes) -> None:
        self.ends, self.last = 0, b""
        self.add(piece)

    def add(self, piece: bytes) -> None:
        import numpy as np

        self.ends += int(np.count_nonzero(np.frombuffer(piece, dtype=np.uint8) == ord("\n")))
        if b"\r" in piece:
            self.ends += piece.count(b"\r") - piece.count(b"\r\n")
        self.ends -= self.last == b"\r" and piece.startswith(b"\n")
        self.last = piece[-1:] or self.last

    @property
    def lines(self) -> int:
        return self.ends + (self.last not in (b"", b"\r", b"\n"))
