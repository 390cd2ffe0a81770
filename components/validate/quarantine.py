"""The rows that are set aside: all of them as a file, with excerpts, and of each reason the first ones for people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from components.validate.freeze import Parquet
from components.validate.rows import EXCERPT, excerpts

FIRST = 10
"""Rows of each reason that are shown to people."""


class Quarantine(Parquet):
    """quarantine.parquet; beside it, how many rows each reason has, and the first of them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[dict[str, Any]]] = {}

    def add(self, table: Any) -> None:
        """Adds rows of `rows.set_aside`."""
        import numpy as np
        import pyarrow.compute as pc

        for reason in table["reason"].unique().to_pylist():
            rows = np.flatnonzero(pc.equal(table["reason"], reason))
            self.counts[reason] += len(rows)
            kept = self.first.setdefault(reason, [])
            kept += table.take(rows[: FIRST - len(kept)]).drop_columns(["reason"]).to_pylist()
        for number, name in enumerate(table.column_names):
            if name not in ("file", "row", "reason"):
                table = table.set_column(number, name, excerpts(table[name], EXCERPT))
        super().add(table)
