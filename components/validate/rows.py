"""Judges the rows of a batch one by one: which count, which are bad and why, and what each good one is keyed by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from components.validate import instructions
from components.validate import text as texts
from components.validate.profile import DAY, DAYS, WordCounts, lengths
from regraft import settings, tasks
from regraft.errors import BadInput
from regraft.exchange import Read
from regraft.parts import Data
from regraft.rows import digests, tidy

SPLITS = ("train", "dev", "holdout")
NO_TIME, SHORT, LONG, DAMAGED = "no readable time", "too short", "too long", "encoding damage"
MARKED = "a mark of the tokenizer in it"
DUPLICATE, NEAR = "duplicate", ("near-duplicate of a row in dev", "near-duplicate of a row in holdout")
"""Why a row of any task is set aside, beside that it cannot be read."""
EXCERPT = 200
"""Characters of a row that is set aside."""
LONGEST_SLICE = 1000
MOST_UNKNOWN = 1_000
"""Unknown values that are counted apart; beyond that the rare ones are forgotten, to bound memory."""


@dataclass(kw_only=True)
class Totals:
    """What is counted over all rows."""

    read: int = 0
    outside_window: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    instructed: Counter[str] = field(default_factory=Counter)
    instructions: dict[str, list[str]] = field(default_factory=dict)
    """Rows that hold what looks like instructions to a model, by kind; and some of them, see `instructions`."""
    words: WordCounts = field(default_factory=WordCounts)
    lengths: Any = 0
    """Rows by `profile.lengths` of their text, those set aside too where they have one."""
    days: Any = 0
    """Rows by the whole days that they arrived before the end of the window; the last counts all earlier ones too."""
    slices: dict[str, set[str | None]] = field(default_factory=dict)
    """The values of each column of slices."""
    malformed: str | None = None
    """Where the first malformed line is, and why it is malformed."""
    newest: datetime | None = None

    @property
    def counted(self) -> int:
        """Rows that arrived in the window."""
        return self.read - self.outside_window

    def add(self, other: Totals) -> None:
        """Adds what was counted in a batch that follows. Raises BadInput where a column has too many slices."""
        self.read += other.read
        self.outside_window += other.outside_window
        self.reasons.update(other.reasons)
        self.unknown.update(other.unknown)
        _forget(self.unknown, MOST_UNKNOWN)
        self.personal.update(other.personal)
        self.instructed.update(other.instructed)
        for kind, shown in other.instructions.items():
            self.instructions[kind] = (self.instructions.get(kind, []) + shown)[: instructions.SHOWN]
        self.words.add(other.words)
        self.lengths = self.lengths + other.lengths
        self.days = self.days + other.days
        for name, values in other.slices.items():
            self.slices[name] = self.slices.get(name, set()) | values
            _few(name.removeprefix("slice."), self.slices[name])
        self.malformed = self.malformed or other.malformed
        self.newest = max(filter(None, (self.newest, other.newest)), default=None)


def judge(
    task: str, table: Any, data: Data, start: datetime | None, end: datetime | None, marks: str = ""
) -> tuple[Any, Any, Totals]:
    """Splits a batch of `reading.batches` into good rows and rows to set aside, and counts both.

    Args:
        marks: an expression for what a row must not hold, since the tokenizer takes it for its own.

    Returns:
        Good rows: text, the task's target, digest (hex), split (uint8, index into SPLITS), bands, words (4 bytes of a
        hash each), slices, file, row; and said, of tasks where words are not those of all the text.
        Bad rows: file, row, reason, and excerpts of target and text.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    totals = Totals(read=table.num_rows)
    table = _in_window(table, start, end, totals)
    read, neat = tasks.read(task, table, data)
    text = read.text.fill_null("")
    length = pc.utf8_length(neat).to_numpy()
    totals.lengths = lengths(length[length > 0])
    limits = data.contract.characters
    malformed = table.column("malformed").drop_null()
    if len(malformed):
        totals.malformed = malformed[0].as_py()
    problems = (
        *read.problems,
        (NO_TIME, _mask(pc.is_null(table.column("time"))) if data.columns.time else False),
        (SHORT, length < limits.min),
        (LONG, length > limits.max),
    )
    names = ["", *(reason for reason, _ in problems), DAMAGED, MARKED]
    why = np.zeros(len(text), dtype=np.uint8)
    for number, (_, applies) in enumerate(problems, start=1):
        why[(why == 0) & applies] = number
    # The texts are searched only now, when the endless ones are gone.
    good = np.flatnonzero(why == 0)
    for said in (text, read.words, read.shown):  # JSON spells control characters otherwise, and answers are beside it
        if said is not None:
            why[good[texts.damaged(said.take(good).fill_null(""))]] = names.index(DAMAGED)
    for said in (text, *(of for of in read.target.values() if pa.types.is_string(of.type))) if marks else ():
        some = said.take(good).fill_null("")
        held = pc.match_substring_regex(some, marks).to_numpy(zero_copy_only=False)
        why[good[held & (why[good] == 0)]] = names.index(MARKED)
    for reason, values in read.unknown.items():
        of_reason = values.filter(pa.array(why == names.index(reason)))
        totals.unknown.update(_counts(pc.utf8_slice_codeunits(of_reason, 0, EXCERPT)))
    totals.reasons.update({names[number]: int(n) for number, n in enumerate(np.bincount(why)) if n})
    bad = np.flatnonzero(why)
    causes = pa.array(names, pa.string()).take(pa.array(why[bad]))
    aside = set_aside(table.take(bad), causes, text.take(bad), {name: read.shown.take(bad) for name in read.target})
    passed = pa.array(why == 0)
    rest = table.select(["file", "row", *(name for name in table.column_names if name.startswith("slice."))])
    target = {name: values.filter(passed) for name, values in read.target.items()}
    rest = rest.filter(passed)
    totals.slices = {name: set(rest.column(name).unique().to_pylist()) for name in rest.column_names[2:]}
    said = spoken(read, neat).filter(passed)
    kept = _keyed(rest, text.filter(passed), neat.filter(passed), said, target, data, totals)
    return (kept if read.words is None else kept.append_column("said", said)), aside, totals


def spoken(read: Read, neat: Any) -> Any:
    """The tidy texts whose words count, of what a task read.

    Args:
        neat: all of the texts, tidy.
    """
    return neat if read.words is None else tidy(read.words.fill_null(""))


def _keyed(rest: Any, text: Any, neat: Any, said: Any, target: dict[str, Any], data: Data, totals: Totals) -> Any:
    """Good rows with their digest, split and bands.

    The split is a function of the row's own words alone, so a row keeps it for ever, and rows with the same words share
    it. What else is nearly the same is dealt with by `freeze`.
    """
    import numpy as np
    import pyarrow as pa

    totals.personal.update(texts.personal(text))
    totals.instructed, totals.instructions = instructions.found(said)
    words = texts.words(said)
    totals.words = WordCounts(*words.counts())
    chance = texts.chances(words.spelled)
    splits = data.splits
    split = np.where(chance < splits.holdout, 2, np.where(chance < splits.holdout + splits.dev, 1, 0)).astype(np.uint8)
    columns = {
        "text": text,
        **target,
        "digest": pa.array(digests(neat), pa.string()),
        "split": pa.array(split),
        "bands": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(8 * texts.BANDS), len(text), [None, pa.py_buffer(texts.bands(words))]
        ),
        "words": pa.BinaryArray.from_buffers(
            pa.binary(),
            len(text),
            [None, pa.py_buffer(4 * words.offsets), pa.py_buffer(words.hashed.astype(np.uint32))],
        ),
    }
    return pa.table({**columns, **{name: rest.column(name) for name in rest.column_names}})


def set_aside(table: Any, reasons: Any, text: Any, shown: Mapping[str, Any]) -> Any:
    """Rows of the quarantine.

    Args:
        table: file and row of each.
        reasons: why it is set aside, a string array.
        shown: the task's target, as people read it.
    """
    import pyarrow as pa

    said = {name: excerpts(of, EXCERPT + texts.REACH) for name, of in {**shown, "text": text}.items()}
    return pa.table({"file": table.column("file"), "row": table.column("row"), "reason": reasons, **said})


def excerpts(texts: Any, length: int) -> Any:
    """The first characters of texts."""
    import pyarrow.compute as pc

    return pc.utf8_slice_codeunits(texts, 0, length)


def _in_window(table: Any, start: datetime | None, end: datetime | None, totals: Totals) -> Any:
    """The rows from `start` until before `end`; those without a readable time stay, to be set aside later."""
    import pyarrow.compute as pc

    if end is None:
        return table
    time = table.column("time")
    inside = pc.less(time, end) if start is None else pc.and_(pc.less(time, end), pc.greater_equal(time, start))
    inside = inside.fill_null(True)
    inner = table.filter(inside)
    totals.outside_window += table.num_rows - inner.num_rows
    totals.newest = pc.max(inner.column("time")).as_py()
    totals.days = _days(inner.column("time"), end)
    return inner


def _days(time: Any, end: datetime) -> Any:
    """How many rows arrived how many whole days before the end, shape (DAYS,)."""
    import numpy as np
    import pyarrow as pa

    since = time.drop_null().cast(pa.int64()).to_numpy()
    ago = (int(end.timestamp() * 1_000_000) - 1 - since) // DAY
    return np.bincount(np.minimum(ago, DAYS - 1), minlength=DAYS)


def _mask(values: Any) -> Any:
    import numpy as np

    return np.asarray(values.to_numpy(zero_copy_only=False) if hasattr(values, "type") else values, dtype=bool)


def _counts(values: Any) -> dict[str, int]:
    counted = values.value_counts()
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _few(column: str, values: set[str | None]) -> None:
    """Raises BadInput where a column's values are too many to be judged one by one, or too long to be names."""
    most = settings.most(settings.SLICES)
    what = f"has more than {most:,} values, and each is a slice that is judged" if len(values) > most else ""
    if any(value and len(value) > LONGEST_SLICE for value in values):
        what = f"holds a value of more than {LONGEST_SLICE:,} characters, which names no slice"
    if what:
        raise BadInput(
            f"the column {column!r} {what}",
            where="data.columns.slices",
            next=f"name a column with fewer; whoever runs regraft may allow more: export {settings.SLICES}=…",
        )


def _forget(counts: Counter[str], most: int) -> None:
    """Halves a counter that has grown too large; ties go by the name."""
    if len(counts) > most:
        kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: most // 2]
        counts.clear()
        counts.update(dict(kept))
