"""Reads Parquet as a stream of tables of about one size, whatever the file says of the sizes of what it holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from regraft.errors import BadInput
from regraft.reading import lines, parquet_pages
from regraft.reading.lines import BATCH_BYTES, BATCH_ROWS, Left, Piece, Present

DECODED_BYTES = 64 << 20
"""Bytes that rows take at most as they are decoded, but for the pages that they lie in and for lists."""
LISTS_BYTES = 16 << 30
"""Bytes that lists of a row group may take, were each element as long as the longest: one row may have them all."""
ROWS_TOGETHER, BYTES_TOGETHER = 16 * BATCH_ROWS, 128 << 20
"""Rows, or packed bytes, of row groups that are read together where groups are small."""


def pieces(file: Any, present: Present, left: Left) -> Iterator[Piece]:
    """The rows of a Parquet file.

    Args:
        left: how much the source may still hold.

    Raises:
        BadInput: the file has other rows than it says, or becomes too large when it is decoded.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunks = _Chunks(file)
    source = pq.ParquetFile(chunks)
    metadata, row = source.metadata, 1
    columns = present(source.schema_arrow.names)
    left.take(rows=metadata.num_rows)
    for groups in _together(metadata):
        size = _rows_at_once(metadata, groups, columns, chunks)
        for table in _gathered(source.iter_batches(batch_size=size, row_groups=groups, columns=columns)):
            left.take(size=table.nbytes)
            yield Piece(_short(table, row), np.arange(row, row + table.num_rows), {})
            row += table.num_rows
    if not metadata.num_row_groups:
        yield Piece(pa.table(source.schema_arrow.empty_table()).select(columns), np.arange(0), {})
    if row - 1 != metadata.num_rows:
        raise BadInput(f"cannot be read: it says that it has {metadata.num_rows:,} rows, and has {row - 1:,}")


class _Chunks:
    """A file that hands out what was read of it before: Arrow reads a column of a row group in one piece."""

    def __init__(self, file: Any) -> None:
        self._file, self._at = file, 0
        self.kept: dict[int, bytes] = {}
        self.closed = False

    def keep(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        self.kept[at] = content = self._file.read(size)
        return bytes(content)

    def read(self, size: int = -1) -> bytes:
        if len(self.kept.get(self._at, b"")) >= size > 0:
            content = self.kept.pop(self._at)[:size]
        else:
            self._file.seek(self._at)
            content = self._file.read(size)
        self._at += len(content)
        return content

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = at + (self._at if whence == 1 else self._file.seek(0, 2) if whence == 2 else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _together(metadata: Any) -> Iterator[list[int]]:
    """Numbers of row groups that are read together."""
    rows, size, groups = 0, 0, list[int]()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(number)
        rows += group.num_rows
        size += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        if rows >= ROWS_TOGETHER or size >= BYTES_TOGETHER:
            yield groups
            rows, size, groups = 0, 0, []
    if groups:
        yield groups


def _rows_at_once(metadata: Any, groups: list[int], columns: list[str], chunks: _Chunks) -> int:
    """How many rows of row groups may be decoded at once. Raises BadInput where one may be too much."""
    chunks.kept.clear()
    rows = max(1, sum(metadata.row_group(number).num_rows for number in groups))
    size = 0
    wanted = set(columns)
    leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] in wanted]
    of_leaf: dict[int, int] = dict.fromkeys(leaves, 0)
    for number, leaf in itertools.product(groups, leaves):
        column = metadata.row_group(number).column(leaf)
        at = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0)
        told = parquet_pages.decoded(chunks.keep(at, column.total_compressed_size), column)
        if metadata.schema.column(leaf).max_repetition_level:
            if column.num_values > parquet_pages.ELEMENTS or told.size > LISTS_BYTES:
                raise BadInput(
                    f"a row group has {column.num_values:,} elements in {column.path_in_schema!r}, of up to "
                    f"{told.size:,} bytes; at most {parquet_pages.ELEMENTS:,} of {LISTS_BYTES:,} bytes are read",
                    next="write the file again with smaller row groups",
                )
            size += told.size
        else:
            of_leaf[leaf] = max(of_leaf[leaf], told.largest)
    largest = sum(of_leaf.values()) + int(size // rows)
    return max(1, min(BATCH_ROWS, DECODED_BYTES // max(1, largest)))


def _gathered(batches: Iterator[Any]) -> Iterator[Any]:
    """Tables of about one size of batches, which may be small; no value stands for others."""
    import pyarrow as pa

    waiting, rows, size = list[Any](), 0, 0
    for coded in batches:
        plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in coded.columns]
        batch = pa.RecordBatch.from_arrays(plain, coded.schema.names)
        if waiting and (rows + batch.num_rows > BATCH_ROWS or size + batch.nbytes > BATCH_BYTES):
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting)


def _short(table: Any, first: int) -> Any:
    """The table. Raises BadInput where a row is longer than a line may be in other formats."""
    most = lines.BLOCK_BYTES
    if table.nbytes <= most:
        return table
    for start in range(table.num_rows):
        size = table.slice(start, 1).nbytes
        if size > most:
            raise BadInput(f"row {first + start} takes {size:,} bytes; at most {most:,} are read")
    return table
