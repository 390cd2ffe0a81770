"""Judges the rows of a batch one by one: which count, which are bad and why, and what each good one is keyed by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from components.validate import text as texts
from components.validate.profile import WordCounts
from regraft.parts import Data

SPLITS = ("train", "dev", "holdout")
REASONS = (
    "",
    "malformed line",
    "no text",
    "invalid UTF-8",
    "no label",
    "unknown label",
    "no readable time",
    "too short",
    "too long",
    "encoding damage",
    "duplicate",
    "near-duplicate of a row in dev",
    "near-duplicate of a row in holdout",
)
"""Why a row is set aside; the first that applies."""
EXCERPT = 200
MOST_LABELS = 1_000
"""Unknown labels that are counted apart; beyond that the rare ones are forgotten, to bound memory."""


@dataclass(kw_only=True)
class Tally:
    """What is counted over all rows."""

    read: int = 0
    outside_window: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unknown_labels: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    words: WordCounts = field(default_factory=WordCounts)
    malformed: str | None = None
    """Where the first malformed line is, and why it is malformed."""
    newest: datetime | None = None

    @property
    def counted(self) -> int:
        """Rows that arrived in the window."""
        return self.read - self.outside_window

    def add(self, other: Tally) -> None:
        """Adds what was counted in a batch that follows."""
        self.read += other.read
        self.outside_window += other.outside_window
        self.reasons.update(other.reasons)
        self.labels.update(other.labels)
        self.unknown_labels.update(other.unknown_labels)
        _forget(self.unknown_labels, MOST_LABELS)
        self.personal.update(other.personal)
        self.words.add(other.words)
        self.malformed = self.malformed or other.malformed
        self.newest = max(filter(None, (self.newest, other.newest)), default=None)


def judge(table: Any, data: Data, start: datetime | None, end: datetime | None) -> tuple[Any, Any, Tally]:
    """Splits a batch of `reading.batches` into good rows and rows to set aside, and counts both.

    Returns:
        Good rows: text, label (int32), digest (hex), split (uint8, index into SPLITS), bands, slices, file, row.
        Bad rows: file, row, reason, label, text (an excerpt).
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    tally = Tally(read=table.num_rows)
    table = _in_window(table, start, end, tally)
    raw = table.column("text").combine_chunks()
    text, invalid = texts.decoded(raw.fill_null(b""))
    label = _none_if_blank(table.column("label").combine_chunks())
    known = pc.index_in(label, value_set=pa.array(data.labels, pa.string()))
    neat = texts.tidy(text)
    length = pc.utf8_length(neat).to_numpy()
    limits = data.contract.characters
    reasons = np.zeros(len(text), dtype=np.uint8)
    malformed = table.column("malformed").drop_null()
    if len(malformed):
        tally.malformed = malformed[0].as_py()
    problems = (
        ("malformed line", _mask(pc.is_valid(table.column("malformed")))),
        ("no text", length == 0),
        ("invalid UTF-8", invalid),
        ("no label", _mask(pc.is_null(label))),
        ("unknown label", _mask(pc.is_null(known))),
        ("no readable time", _mask(pc.is_null(table.column("time"))) if data.columns.time else False),
        ("too short", length < limits.min),
        ("too long", length > limits.max),
    )
    for reason, applies in problems:
        reasons[(reasons == 0) & applies] = REASONS.index(reason)
    # The texts are searched only now, when the endless ones are gone.
    good = np.flatnonzero(reasons == 0)
    reasons[good[texts.damaged(text.take(good))]] = REASONS.index("encoding damage")
    unknown = label.filter(pa.array(reasons == REASONS.index("unknown label")))
    tally.unknown_labels.update(_counts(pc.utf8_slice_codeunits(unknown, 0, EXCERPT)))
    for number, count in zip(*np.unique(reasons, return_counts=True), strict=True):
        tally.reasons[REASONS[number]] += int(count)
    bad = np.flatnonzero(reasons)
    aside = set_aside(
        table.take(bad), reasons[bad], pc.utf8_slice_codeunits(text.take(bad), 0, EXCERPT), label.take(bad)
    )
    passed = pa.array(reasons == 0)
    named = label.filter(passed)
    tally.labels.update(_counts(named))
    rest = table.drop_columns(["text", "label", "malformed", *(["time"] if data.columns.time else [])]).filter(passed)
    kept = _keyed(rest, text.filter(passed), neat.filter(passed), named, known.filter(passed), data, tally)
    return kept, aside, tally


def _keyed(rest: Any, text: Any, neat: Any, named: Any, label: Any, data: Data, tally: Tally) -> Any:
    """Good rows with their digest, split and bands.

    The split is a function of the row's own words alone, so a row keeps it for ever, and rows with the same words share
    it. What else is nearly the same is dealt with by `freeze`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    tally.personal.update(texts.personal(text))
    words = texts.words(neat)
    tally.words = WordCounts(*words.counts())
    chance = texts.chances(words.spelled)
    splits = data.splits
    split = np.where(chance < splits.holdout, 2, np.where(chance < splits.holdout + splits.dev, 1, 0)).astype(np.uint8)
    columns = {
        "text": text,
        "label": label.cast(pa.int32()),
        "digest": pa.array(texts.digests(pc.binary_join_element_wise(named, neat, "\n")), pa.string()),
        "split": pa.array(split),
        "bands": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(8 * texts.BANDS), len(text), [None, pa.py_buffer(texts.bands(words))]
        ),
    }
    return pa.table({**columns, **{name: rest.column(name) for name in rest.column_names}})


def set_aside(table: Any, reasons: Any, excerpt: Any, label: Any) -> Any:
    """Rows of the quarantine. `reasons` are indices into REASONS."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.table(
        {
            "file": table.column("file"),
            "row": table.column("row"),
            "reason": pa.array(REASONS, pa.string()).take(pa.array(reasons)),
            "label": pc.utf8_slice_codeunits(label, 0, EXCERPT),
            "text": excerpt,
        }
    )


def _in_window(table: Any, start: datetime | None, end: datetime | None, tally: Tally) -> Any:
    """The rows from `start` until before `end`; those without a readable time stay, to be set aside later."""
    import pyarrow.compute as pc

    if end is None:
        return table
    time = table.column("time")
    inside = pc.less(time, end) if start is None else pc.and_(pc.less(time, end), pc.greater_equal(time, start))
    inside = inside.fill_null(True)
    inner = table.filter(inside)
    tally.outside_window += table.num_rows - inner.num_rows
    tally.newest = pc.max(inner.column("time")).as_py()
    return inner


def _none_if_blank(label: Any) -> Any:
    """CSV has no null: a blank label is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    label = pc.utf8_trim_whitespace(label)
    return pc.if_else(pc.equal(label, ""), pa.scalar(None, pa.string()), label)


def _mask(values: Any) -> Any:
    import numpy as np

    return np.asarray(values.to_numpy(zero_copy_only=False) if hasattr(values, "type") else values, dtype=bool)


def _counts(values: Any) -> dict[str, int]:
    counted = values.value_counts()
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _forget(counts: Counter[str], most: int) -> None:
    """Halves a counter that has grown too large; ties go by the name."""
    if len(counts) > most:
        kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: most // 2]
        counts.clear()
        counts.update(dict(kept))
