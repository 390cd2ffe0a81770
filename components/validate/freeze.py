"""Freezes the good rows: puts them in an order of their own, drops duplicates, keeps near-duplicates out of two splits.

**The rule of the splits.** A row's split follows from its own words (`rows.judge`), so neither other rows nor order nor
files move it, ever. Rows with the same words share a split by that alone. Where other near-duplicates (`text.bands`)
fall into different splits, nothing is moved: the row of the higher split stays (holdout before dev before train) and
those of the lower ones are withheld. A new near-duplicate can thus take a row out of train, never into another split.

**Memory.** Rows pass through buckets on the scratch disk, cut by the first digits of the digest, so that one bucket at
a time is in memory; read one after the other, sorted, they are one sorted data set. Besides, each row of the whole
takes about 30 bytes while near-duplicates are sought.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from components.validate.rows import DUPLICATE, NEAR, SPLITS, set_aside
from components.validate.text import BANDS
from regraft.parts import Data

LARGE = 128 << 20
"""Bytes of a source from which on buckets are cut finer."""
ROW_GROUP = 65_536
COMPARED = ("train", "holdout")
"""Splits whose rows' words are kept for `overlap`."""
PART = 2_000_000
"""Rows whose near-duplicate keys are sorted at once."""
PAIRS = 10
"""Pairs of near-duplicates that are shown to people."""


class Buckets:
    """Arrow files in a folder; a row goes to the one that the first digits of its digest name.

    Args:
        source_bytes: size of the source; a large one is cut into 256 instead of 16.
        target: the task's columns.
    """

    def __init__(self, folder: Path, source_bytes: int, target: tuple[str, ...]) -> None:
        self._folder = folder
        self.target = target
        digits = 1 if source_bytes < LARGE else 2
        self._names = ["".join(name) for name in itertools.product("0123456789abcdef", repeat=digits)]
        self._writers: dict[int, Any] = {}

    def add(self, table: Any) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        first = pc.utf8_slice_codeunits(table.column("digest").combine_chunks(), 0, len(self._names[0]))
        bucket = pc.index_in(first, value_set=pa.array(self._names)).to_numpy()
        order = np.argsort(bucket, kind="stable")
        table = table.take(order).combine_chunks()
        edges = np.searchsorted(bucket[order], np.arange(len(self._names) + 1))
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            if number not in self._writers:
                self._writers[number] = pa.ipc.new_file(str(self._path(number)), table.schema)
            self._writers[number].write_table(table.slice(start, end - start))

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._names[number]}.arrow"

    def sort(self) -> None:
        """Sorts each bucket, when all is added, by what its rows hold: so the order of the source does not show."""
        import pyarrow as pa

        for number, writer in self._writers.items():
            writer.close()
            table = self._opened(number)
            slices = sorted(name for name in table.column_names if name.startswith("slice."))
            order = [(name, "ascending") for name in ("digest", *self.target, "text", *slices)]
            table = table.sort_by(order).combine_chunks()
            self._path(number).unlink()  # what is mapped stays readable
            with pa.ipc.new_file(str(self._path(number)), table.schema) as file:
                file.write_table(table)

    def read(self) -> Iterator[Any]:
        """The buckets in order, after `sort`."""
        for number in sorted(self._writers):
            yield self._opened(number).combine_chunks()

    def _opened(self, number: int) -> Any:
        import pyarrow as pa

        with pa.memory_map(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What became of the good rows.

    Attributes:
        rows: rows of each split.
        counts: of each split, what the task counts.
        duplicates: good rows that another equals in text and target.
        near_duplicates: rows that nearly equal another one, less one for each group of them.
        withheld: rows left out because a nearly equal one is in a higher split.
        sample: the first rows of the data set as a table; in the order of digests they are a random sample.
        said: what each of these says, a string array.
        pairs: the first near-duplicates, each a row of a pair: text, the task's target as people read it, split.
    """

    rows: dict[str, int]
    counts: dict[str, Counter[str]]
    duplicates: int
    near_duplicates: int
    withheld: int
    sample: Any
    said: Any
    pairs: list[tuple[dict[str, str], dict[str, str]]]

    @property
    def totals(self) -> dict[str, int]:
        """What the task counts, of all splits together."""
        return {name: sum(of_split[name] for of_split in self.counts.values()) for name in self.counts[SPLITS[0]]}


def freeze(
    task: ModuleType, data: Data, buckets: Buckets, *, out: Path, scratch: Path, quarantine: Any, sample: int
) -> Frozen:
    """Writes train.parquet, dev.parquet and holdout.parquet to `out`.

    Args:
        scratch: a folder, in which the splits of COMPARED become Arrow files of `words` and what was `said`.
        quarantine: writer of the rows that are set aside.
        sample: how many rows to hand back.
    """
    import numpy as np
    import pyarrow as pa

    buckets.sort()
    duplicates, split = _band_files(buckets, scratch)
    near, highest, pairs = _near_duplicates(scratch, split)
    withheld = split < highest
    paired, twins = np.unique(np.array(pairs, dtype=np.int64)), dict[int, dict[str, str]]()
    rows, counts = dict.fromkeys(SPLITS, 0), {name: Counter[str]() for name in SPLITS}
    first, first_said = list[Any](), list[Any]()
    writers = [Parquet(out / f"{name}.parquet") for name in SPLITS]
    schema = pa.schema({"words": pa.binary(), "said": pa.string()})
    spoken = {name: pa.ipc.new_file(str(scratch / f"{name}.arrow"), schema) for name in COMPARED}
    position, reasons = 0, ["", *NEAR, DUPLICATE]
    for table in buckets.read():
        repeated = _repeated(table, buckets.target)
        kept = table.filter(~repeated)
        span = slice(position, position + kept.num_rows)
        position = span.stop
        inside = paired[(paired >= span.start) & (paired < span.stop)]
        twins |= zip(inside.tolist(), _readable(task, data, kept.take(inside - span.start)), strict=True)
        why = np.full(table.num_rows, reasons.index(DUPLICATE), dtype=np.uint8)
        why[~repeated] = np.where(withheld[span], highest[span], 0)
        aside, causes = table.filter(why > 0), pa.array(reasons, pa.string()).take(pa.array(why[why > 0]))
        shown = task.shown(aside.select(buckets.target), data)
        quarantine.add(set_aside(aside, causes, aside["text"], dict.fromkeys(buckets.target, shown)))
        said = kept["said" if "said" in kept.column_names else "text"]
        for number, name in enumerate(SPLITS):
            chosen = ~withheld[span] & (split[span] == number)
            part = kept.filter(chosen)
            rows[name] += part.num_rows
            counts[name].update(task.counts(part.select(buckets.target), data))
            if name in spoken:
                spoken[name].write_table(pa.table([part["words"], said.filter(chosen)], schema))
            inner = {"split", "bands", "words", "said", "file", "row"} & {*part.column_names}
            writers[number].add(part.drop_columns(sorted(inner)))
        if sample or not first:
            # Taken, not sliced: a slice would keep all of its bucket in memory.
            chosen = np.flatnonzero(~withheld[span])[:sample]
            first.append(kept.select(["text", *buckets.target, "digest"]).take(chosen))
            first_said.append(said.take(chosen))
            sample -= len(chosen)
    for writer in (*writers, *spoken.values()):
        writer.close()
    return Frozen(
        rows=rows,
        counts=counts,
        duplicates=duplicates,
        near_duplicates=near,
        withheld=int(withheld.sum()),
        sample=pa.concat_tables(first),
        said=pa.chunked_array([chunk for of in first_said for chunk in of.chunks], pa.string()),
        pairs=[(twins[one], twins[other]) for one, other in pairs],
    )


def _readable(task: ModuleType, data: Data, rows: Any) -> list[dict[str, str]]:
    """Rows with their target as people read it, and the split that their words name."""
    texts, splits = rows["text"].to_pylist(), rows["split"].to_pylist()
    shown = task.shown(rows.select(task.ROWS.target), data).to_pylist()
    return [
        {"text": text, **dict.fromkeys(task.ROWS.target, target), "split": SPLITS[split]}
        for text, target, split in zip(texts, shown, splits, strict=True)
    ]


def _repeated(table: Any, target: tuple[str, ...]) -> Any:
    """Which rows of a sorted bucket have the input and the target of the row before."""
    import numpy as np
    import pyarrow.compute as pc

    out = np.zeros(table.num_rows, dtype=bool)
    if table.num_rows > 1:
        out[1:] = True
        for name in ("digest", *target):
            values = table.column(name).combine_chunks()
            out[1:] &= pc.equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    return out


def _band_files(buckets: Buckets, scratch: Path) -> tuple[int, Any]:
    """Writes one file of keys a band, in the order of the data set; gives the duplicates left out and the splits."""
    import numpy as np

    duplicates, splits = 0, []
    files = [(scratch / f"band-{band:02}").open("wb") for band in range(BANDS)]
    for table in buckets.read():
        repeated = _repeated(table, buckets.target)
        duplicates += int(repeated.sum())
        splits.append(table.column("split").to_numpy()[~repeated])
        column = table.column("bands").combine_chunks()
        keys = np.frombuffer(column.buffers()[1], dtype=np.uint64).reshape(-1, BANDS)[column.offset :][: len(column)]
        for band, file in enumerate(files):
            file.write(np.ascontiguousarray(keys[~repeated, band]).data)
    for file in files:
        file.close()
    return duplicates, np.concatenate(splits) if splits else np.zeros(0, dtype=np.uint8)


def _near_duplicates(scratch: Path, split: Any) -> tuple[int, Any, list[tuple[int, int]]]:
    """How many rows have a near-duplicate before them, the highest split among each row and its near-duplicates, and
    the first pairs of them, no row in two."""
    import numpy as np

    second = np.zeros(len(split), dtype=bool)
    highest = split.copy()
    pairs: set[tuple[int, int]] = set()
    parts = len(split) // PART + 1  # equal keys have equal remainders, so that the parts can be sorted one by one
    for band, part in itertools.product(range(BANDS), range(parts)):
        keys = np.fromfile(scratch / f"band-{band:02}", dtype=np.uint64)
        members = np.flatnonzero(keys % np.uint64(parts) == part)
        order = members[np.argsort(keys[members])]
        same = keys[order[1:]] == keys[order[:-1]]
        twins = np.append(same, False) | np.append(False, same)  # few: only they are put in order once more
        members = np.sort(order[twins[: len(order)]])
        if not len(members):
            continue
        keys = keys[members]
        order = np.argsort(keys, kind="stable")
        members = members[order]
        first = np.ones(len(keys), dtype=bool)
        first[1:] = keys[order][1:] != keys[order][:-1]
        second[members[~first]] = True
        starts = np.flatnonzero(first)
        top = np.maximum.reduceat(split[members], starts)
        highest[members] = np.maximum(highest[members], np.repeat(top, np.diff(np.append(starts, len(keys)))))
        earliest = starts[np.argsort(members[starts])[:PAIRS]]
        pairs.update(zip(members[earliest].tolist(), members[earliest + 1].tolist(), strict=True))
    return int(second.sum()), highest, _apart(sorted(pairs))


def _apart(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first pairs that have no row in common."""
    chosen: list[tuple[int, int]] = []
    for pair in pairs:
        if len(chosen) < PAIRS and not {row for other in chosen for row in other} & {*pair}:
            chosen.append(pair)
    return chosen


class Parquet:
    """A Parquet file whose row groups have one size, however the rows came, so that equal rows make equal bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._waiting: list[Any] = []

    def add(self, table: Any) -> None:
        import pyarrow as pa

        self._waiting.append(table)
        if sum(part.num_rows for part in self._waiting) >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            while whole.num_rows >= ROW_GROUP:
                self._write(whole.slice(0, ROW_GROUP))
                whole = whole.slice(ROW_GROUP)
            self._waiting = [whole]

    def _write(self, table: Any) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(str(self._path), table.schema, compression="zstd")
        self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

    def close(self) -> None:
        """Writes what waits. A file without a row has its columns all the same."""
        import pyarrow as pa

        if self._waiting:
            self._write(pa.concat_tables(self._waiting))
        if self._writer is not None:
            self._writer.close()
