"""Reads Parquet, CSV, TSV and JSON Lines as a stream of batches with the recipe's columns, whatever the format.

No row vanishes: each is read, or it is malformed and says why, or the file is refused.
"""

from __future__ import annotations

import bz2
import difflib
import functools
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from regraft import sources
from regraft.errors import BadInput
from regraft.parts import Data
from regraft.reading import delimited, json_lines, lines
from regraft.reading.lines import Part, Spans

SUFFIXES = tuple(
    kind + packed
    for kind in (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
    for packed in (("",) if kind == ".parquet" else ("", ".gz", ".bz2", ".xz"))
)
BATCH_ROWS = 16_384
BATCH_BYTES = 16 << 20


_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Folders in which a table of files says which of them it holds."""


def files(data: Data) -> list[tuple[Any, str, int]]:
    """File system, path and size of each file of the source. Raises BadInput if one is empty."""
    found = sources.files(data.source, SUFFIXES)
    with sources.reading(data.source):
        sized = [(system, path, int(system.size(path) or 0)) for system, path in found]
    for _, path, size in sized:
        if size == 0:
            raise BadInput("the file is empty", where=_name(path, data), next="remove it or write its rows again")
    return sized


def digest(data: Data) -> str:
    """SHA-256 over all that `batches` reads of the source.

    That is, in the order of their paths: each file's contents, its format, which its suffix tells, and the wanted
    columns that stand in its path. Else paths do not count: a copy in another folder is the same source.
    """
    total = hashlib.sha256()
    for system, path in sources.files(data.source, SUFFIXES):
        with sources.reading(data.source), system.open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        pairs = {name: value for name, value in _partition(path).items() if name in wanted(data)}
        said = [content, _format(path), sorted(pairs.items())]
        total.update(json.dumps(said).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


def left_out(data: Data) -> dict[str, str]:
    """What lies at the source and is not read, or should not be, in a sentence a kind: hidden, unread, table."""
    found, said = sources.look(data.source, SUFFIXES), {}
    if found.hidden:
        count = f"{len(found.hidden):,} file{'s' * (len(found.hidden) != 1)}"
        said["hidden"] = f"{count} left out: a part of the path starts with . or _ ({sources.some(found.hidden)})"
    if found.unread:
        said["unread"] = (
            f"{sources.some(found.unread)} not read: the source does not match it, or it ends in none of "
            f"{', '.join(SUFFIXES)}"
        )
    for folder, kind in _TABLES.items():
        if any(folder in name.split("/") for name in found.hidden):
            said["table"] = f"files that this {kind} table's log has removed are read too; export one version of it"
    return said


def batches(data: Data, found: list[tuple[Any, str, int]], spans: Spans | None = None) -> Iterator[tuple[Any, float]]:
    """The rows of `files`, in their order.

    Args:
        spans: is told how many lines the rows span.

    Yields:
        A table with the columns `text` (binary, so that damaged UTF-8 can be told from good), `label` (string), `time`
        (timestamp in UTC, if the recipe has a time column), `slice.<name>` (string), `file` and `row` (from 1), and
        `malformed` (string): where and why a line cannot be parsed, else null; its text is the line's first bytes. And
        the share of the source that is read.

    Raises:
        BadInput: a file is not of its format or lacks a column, or no file has a row.
    """
    total = sum(size for _, _, size in found)
    done, rows, spans = 0, 0, spans or Spans()
    for number, (system, path, size) in enumerate(found, start=1):
        malformed, before = 0, rows
        spans.file = sources.written(Path(path).name)
        with sources.reading(data.source), system.open(path, "rb") as file, _understood(path, data):
            for part in _parts(file, path, data, spans):
                rows += part.table.num_rows
                malformed += len(part.malformed)
                yield _uniform(part, data, path, number), (done + min(file.tell(), size)) / total
            if malformed and malformed == rows - before:
                line = next(iter(part.malformed.values()))
                raise BadInput(
                    f"cannot be read: each of its {malformed:,} rows is malformed; row {line.row} {line.why}"
                )
        done += size
    if rows == 0:
        raise BadInput("no file has a row", where=data.source, next="check what writes it")


def _name(path: str, data: Data) -> str:
    """The file as a person would name it: with the protocol of the source."""
    path = sources.written(path)
    scheme, mark, _ = data.source.partition("://")
    return f"{scheme}://{path}" if mark and scheme not in {"package", "file"} and "$" not in scheme else path


@contextmanager
def _understood(path: str, data: Data) -> Iterator[None]:
    """Turns what parsers raise into our errors."""
    import pyarrow as pa

    advice = "mend the file or take it away"
    try:
        yield
    except BadInput as error:
        error.where = error.where or _name(path, data)
        error.next = error.next or advice
        raise
    except pa.ArrowInvalid as error:
        what = str(error).splitlines()[0]
        if "straddling" in what:
            what = f"has a line longer than {lines.BLOCK_BYTES >> 20} MiB"
        raise BadInput(f"cannot be read: {what}", where=_name(path, data), next=advice) from error
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowException) as error:
        raise BadInput(f"cannot be read: {error}", where=_name(path, data), next=advice) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's decoders and bz2 say OSError without a number where the bytes are damaged.
        raise BadInput(f"cannot be read: {error}", where=_name(path, data), next=advice) from error


def _parts(file: Any, path: str, data: Data, spans: Spans) -> Iterator[Part]:
    """The rows of one file, with at least the wanted columns that the file itself has."""
    kind, present = _format(path), functools.partial(_present, path=path, data=data)
    for ending, unpack in ((".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)):
        if kind.endswith(ending):
            kind, file = kind.removesuffix(ending), unpack(file, "rb")
    if kind == ".parquet":
        return _parquet(file, present)
    if kind in {".csv", ".tsv"}:
        quoted = data.quoting == "minimal" or (data.quoting == "auto" and kind == ".csv")
        labels = frozenset(label.strip().encode() for label in data.labels)
        form = delimited.Form(b"\t" if kind == ".tsv" else b",", quoted)
        return _sliced(delimited.parts(file, present, form, data.columns.label, labels, spans))
    if kind:
        named = {data.columns.label, *data.columns.slices} - {data.columns.text, data.columns.time}
        return _sliced(json_lines.parts(file, present, wanted(data), frozenset(filter(None, named))))
    raise BadInput(
        f"the format {Path(path).suffix or 'without a suffix'} is not one of {', '.join(SUFFIXES)}",
        where=_name(path, data),
        next="convert the file or give it the right suffix",
    )


def _format(path: str) -> str:
    """The one of SUFFIXES that a path ends in, empty where it is none."""
    return max((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), key=len, default="")


def wanted(data: Data) -> list[str]:
    """The columns of the source that count."""
    columns = data.columns
    return list(dict.fromkeys(filter(None, [columns.text, columns.label, columns.time, *columns.slices])))


def _partition(path: str) -> dict[str, str | None]:
    """Columns that stand in the path, as in `month=2025-01/part-0.parquet`; a null is spelled as Hive does."""
    pairs = (part.partition("=") for part in sources.written(path).split("/")[:-1])
    named = {unquote(key): unquote(value) for key, equals, value in pairs if equals}
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else value for key, value in named.items()}


def _present(found: list[str], path: str, data: Data) -> list[str]:
    """The wanted columns that the file has. Raises BadInput for one that is missing or there twice."""
    elsewhere = _partition(path)
    for column in wanted(data):
        if found.count(column) > 1:
            raise BadInput(
                f"has the column {column!r} {found.count(column)} times",
                where=_name(path, data),
                next="rename one of them, so that it is clear which one counts",
            )
        if column not in found and column not in elsewhere:
            close = difflib.get_close_matches(column, found, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            others = ", ".join(repr(name[:100]) for name in found[:20]) or "none"
            raise BadInput(
                f"has no column {column!r}; it has {others}{hint}",
                where=_name(path, data),
                next="write `quoting: minimal` below `data:` in the recipe, if its values stand in quotes"
                if f'"{column}"' in found
                else "mend data.columns in the recipe, or what writes the file",
            )
    if data.columns.text not in found:
        raise BadInput(f"has the text, {data.columns.text!r}, in its path only", where=_name(path, data))
    return [column for column in wanted(data) if column in found]


def _parquet(file: Any, present: lines.Present) -> Iterator[Part]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(file)
    columns, row = present(source.schema_arrow.names), 1
    groups = map(source.metadata.row_group, range(source.metadata.num_row_groups))
    bytes_a_row = sum(group.total_byte_size for group in groups) // max(1, source.metadata.num_rows)
    size = max(64, min(BATCH_ROWS, BATCH_BYTES // max(1, bytes_a_row)))
    for batch in source.iter_batches(batch_size=size, columns=columns):
        yield Part(pa.table(batch), np.arange(row, row + batch.num_rows), {})
        row += batch.num_rows
    if row - 1 != source.metadata.num_rows:
        raise BadInput(f"cannot be read: it says that it has {source.metadata.num_rows:,} rows, and has {row - 1:,}")


def _sliced(parts: Iterator[Part]) -> Iterator[Part]:
    for table, rows, malformed in parts:
        size = max(64, min(BATCH_ROWS, BATCH_BYTES * max(1, table.num_rows) // max(1, table.nbytes)))
        for start in range(0, table.num_rows, size):
            here = {index - start: line for index, line in malformed.items() if start <= index < start + size}
            yield Part(table.slice(start, size), rows[start : start + size], here)


def _uniform(part: Part, data: Data, path: str, number: int) -> Any:
    """The rows with our names and types."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table, size = part.table, part.table.num_rows
    constants = _partition(path)

    def column(name: str) -> Any:
        if name in table.column_names:
            values = table.column(name).combine_chunks()
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            return values
        return pa.repeat(pa.scalar(constants[name], pa.string()), size)

    text = column(data.columns.text)
    if not _is_text(text.type):
        raise _wrong_type(data.columns.text, text.type, "text", path, data)
    columns = {"text": _as_bytes(text)}
    contents: list[bytes | None] = [None] * size
    reasons: list[str | None] = [None] * size
    for index, line in part.malformed.items():
        contents[index], reasons[index] = (
            line.content,
            f"row {line.row} of {sources.written(Path(path).name)} {line.why}",
        )
    if part.malformed:
        columns["text"] = pc.coalesce(pa.array(contents, pa.binary()), columns["text"])
    columns["malformed"] = pa.array(reasons, pa.string()) if part.malformed else pa.nulls(size, pa.string())
    columns["label"] = _strings(column(data.columns.label), data.columns.label, path, data)
    if data.columns.time:
        columns["time"] = _times(column(data.columns.time), data.columns.time, path, data)
    for name in data.columns.slices:
        columns[f"slice.{name}"] = _strings(column(name), name, path, data)
    columns["file"] = pa.array(np.full(size, number, dtype=np.int32))
    columns["row"] = pa.array(part.rows, pa.int64())
    return pa.table(columns)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    of = pa.types
    texts = (of.is_string, of.is_large_string, of.is_string_view)
    return any(check(kind) for check in (*texts, of.is_binary, of.is_large_binary, of.is_binary_view, of.is_null))


def _as_bytes(values: Any) -> Any:
    import pyarrow as pa

    return values.cast(pa.large_binary()).cast(pa.binary())


def _wrong_type(column: str, kind: Any, expected: str, path: str, data: Data) -> BadInput:
    return BadInput(
        f"has {kind} in the column {column!r}, where {expected} is expected",
        where=_name(path, data),
        next="mend data.columns in the recipe, or what writes the file",
    )


def _strings(values: Any, name: str, path: str, data: Data) -> Any:
    """Labels and slices as text; damaged bytes become the replacement character, and so an unknown label."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_floating(kind):
        try:  # whole numbers beside a null are floats where pandas wrote the file
            values, kind = values.cast(pa.int64()), pa.int64()
        except pa.ArrowInvalid as error:
            raise _wrong_type(name, kind, "text or whole numbers", path, data) from error
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise _wrong_type(name, kind, "text or whole numbers", path, data)
    if _is_text(kind):
        values = _as_bytes(values)  # Parquet may call text what is not UTF-8
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        found = values.to_pylist()
        return pa.array([v if v is None else v.decode("utf-8", "replace") for v in found], pa.string())


def _times(values: Any, name: str, path: str, data: Data) -> Any:
    """Times in UTC; those without a zone are taken as UTC, unreadable ones are null."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, utc = values.type, pa.timestamp("us", "UTC")
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        exact = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        return exact.cast(utc) if getattr(kind, "tz", None) else pc.assume_timezone(exact, "UTC")
    if not _is_text(kind):
        raise _wrong_type(name, kind, "a time", path, data)
    read = pd.to_datetime(_strings(values, name, path, data).to_pandas(), utc=True, format="ISO8601", errors="coerce")
    naive = pa.array(read.dt.tz_convert(None).to_numpy(), from_pandas=True)
    return pc.assume_timezone(naive.cast(pa.timestamp("us"), safe=False), "UTC")
