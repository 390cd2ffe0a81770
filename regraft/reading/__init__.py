"""Reads Parquet, CSV, TSV and JSON Lines as a stream of batches with the wanted columns, whatever the format.

No row vanishes: each is read, or it is malformed and says why, or the file is refused.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from regraft import settings, sources
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.reading import delimited, json_lines, json_values, lines, packed, parquet
from regraft.reading.lines import BATCH_BYTES, BATCH_ROWS, Left, Piece
from regraft.reading.lines import Spans as Spans
from regraft.rows import Kind
from regraft.rows import Source as Source

SUFFIXES = tuple(
    kind + packed
    for kind in (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
    for packed in (("",) if kind == ".parquet" else ("", ".gz", ".bz2", ".xz"))
)
MOST_MALFORMED = 1_000_000
"""Malformed rows of a file after which it is given up, where most of its rows are."""
NEXT = "mend data.columns in the recipe, or what writes the file"


_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Folders in which a table of files says which of them it holds."""


def files(source: Source) -> list[tuple[Any, str, int]]:
    """File system, path and size of each file of the source. Raises BadInput if one is empty."""
    listed = sources.files(source.location, SUFFIXES)
    with sources.reading(source.location):
        sized = [(system, path, int(system.size(path) or 0)) for system, path in listed]
    for _, path, size in sized:
        if size == 0:
            raise BadInput("the file is empty", where=_name(path, source), next="remove it or write its rows again")
    return sized


def digest(source: Source) -> str:
    """SHA-256 over all that `batches` reads of the source.

    That is, in the order of their paths: each file's contents, its format, which its suffix tells, and the wanted
    columns that stand in its path. Else paths do not count: a copy in another folder is the same source.
    """
    total = hashlib.sha256()
    for system, path in sources.files(source.location, SUFFIXES):
        with sources.reading(source.location), system.open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        pairs = {name: value for name, value in _partition(path).items() if name in source.wanted}
        said = [content, _format(path), sorted(pairs.items())]
        total.update(json.dumps(said).encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()


def pinned(source: Source) -> str:
    """What pins a source beside `data.source`, as an input of a step: its bytes, and how they are read."""
    return sha256([digest(source), dict(source.columns), source.quoting])


def left_out(source: Source) -> dict[str, str]:
    """What lies at the source and is not read, or should not be, in a sentence a kind: hidden, unread, table."""
    listed, said = sources.look(source.location, SUFFIXES), {}
    if listed.hidden:
        count = f"{len(listed.hidden):,} file{'s' * (len(listed.hidden) != 1)}"
        said["hidden"] = f"{count} left out: a part of the path starts with . or _ ({sources.some(listed.hidden)})"
    if listed.unread:
        said["unread"] = (
            f"{sources.some(listed.unread)} not read: the source does not match it, or it ends in none of "
            f"{', '.join(SUFFIXES)}"
        )
    for folder, kind in _TABLES.items():
        if any(folder in name.split("/") for name in listed.hidden):
            said["table"] = f"files that this {kind} table's log has removed are read too; export one version of it"
    return said


def batches(
    source: Source, files: list[tuple[Any, str, int]], spans: Spans | None = None
) -> Iterator[tuple[Any, float]]:
    """The rows of `files`, in their order.

    Args:
        spans: is told how many lines the rows span.

    Yields:
        A table with the columns of the source as we call them (texts are binary, so that damaged UTF-8 can be told from
        good), `file` and `row` (from 1), and `malformed` (string): where and why a line cannot be parsed, else null;
        the line's first bytes are in `text`. And the share of the source that is read.

    Raises:
        BadInput: a file is not of its format or lacks a column, or no file has a row.
    """
    total = sum(size for _, _, size in files)
    done, rows, spans = 0, 0, spans or Spans()
    left = Left(rows=settings.most(settings.ROWS), size=settings.most(settings.GIB) << 30)
    for number, (system, path, size) in enumerate(files, start=1):
        malformed, before, first = 0, rows, None
        spans.file = sources.written(Path(path).name)
        with sources.reading(source.location), system.open(path, "rb") as file, _understood(path, source):
            for piece in _pieces(file, path, source, spans, left):
                rows += piece.table.num_rows
                malformed += len(piece.malformed)
                first = first or next(iter(piece.malformed.values()), None)
                if first and malformed > MOST_MALFORMED and 2 * malformed > rows - before:
                    raise BadInput(
                        f"cannot be read: {malformed:,} of its first {rows - before:,} rows are malformed; "
                        f"row {first.row} {first.why}"
                    )
                yield _uniform(piece, source, path, number), (done + min(file.tell(), size)) / total
            if first and malformed == rows - before:
                raise BadInput(
                    f"cannot be read: each of its {malformed:,} rows is malformed; row {first.row} {first.why}"
                )
        done += size
    if rows == 0:
        raise BadInput("no file has a row", where=source.location, next="check what writes it")


def _name(path: str, source: Source) -> str:
    """The file as a person would name it: with the protocol of the source."""
    path = sources.written(path)
    scheme, mark, _ = source.location.partition("://")
    return f"{scheme}://{path}" if mark and scheme not in {"package", "file"} and "$" not in scheme else path


@contextmanager
def _understood(path: str, source: Source) -> Iterator[None]:
    """Turns what parsers raise into our errors."""
    import pyarrow as pa

    advice = "mend the file or take it away"
    try:
        yield
    except BadInput as error:
        error.where = error.where or _name(path, source)
        error.next = error.next or advice
        raise
    except pa.ArrowInvalid as error:
        what = str(error).splitlines()[0]
        if "straddling" in what:
            what = f"has a line longer than {lines.BLOCK_BYTES >> 20} MiB"
        raise BadInput(f"cannot be read: {what}", where=_name(path, source), next=advice) from error
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowException) as error:
        raise BadInput(f"cannot be read: {error}", where=_name(path, source), next=advice) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's decoders and bz2 say OSError without a number where the bytes are damaged.
        raise BadInput(f"cannot be read: {error}", where=_name(path, source), next=advice) from error


def _pieces(file: Any, path: str, source: Source, spans: Spans, left: Left) -> Iterator[Piece]:
    """The rows of one file, with at least the wanted columns that the file itself has."""
    kind, present = _format(path), functools.partial(_present, path=path, source=source)
    if kind == ".parquet":
        return parquet.pieces(file, present, left)
    file = packed.Unpacked(file, kind, left)
    kind = next((suffix for suffix in SUFFIXES[1:] if kind.startswith(suffix)), "")
    if kind in {".csv", ".tsv"}:
        quoted = source.quoting == "minimal" or (source.quoting == "auto" and kind == ".csv")
        form = delimited.Form(b"\t" if kind == ".tsv" else b",", quoted)
        (key, values), *_ = *source.known.items(), (None, frozenset[str]())
        telling = source.columns[key][0] if key else None
        known = frozenset(value.strip().encode() for value in values)
        return _sliced(delimited.pieces(file, present, form, telling, known, spans), left)
    if kind and source.of_kind("value"):
        return _sliced(
            json_values.pieces(file, present, source.wanted, source.of_kind("value"), source.of_kind("name")), left
        )
    if kind:
        named = source.of_kind("name") - source.of_kind("text", "time")
        return _sliced(json_lines.pieces(file, present, source.wanted, named), left)
    raise BadInput(
        f"the format {Path(path).suffix or 'without a suffix'} is not one of {', '.join(SUFFIXES)}",
        where=_name(path, source),
        next="convert the file or give it the right suffix",
    )


def _format(path: str) -> str:
    """The one of SUFFIXES that a path ends in, empty where it is none."""
    return max((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), key=len, default="")


def _partition(path: str) -> dict[str, str | None]:
    """Columns that stand in the path, as in `month=2025-01/part-0.parquet`; a null is spelled as Hive does."""
    pairs = (part.partition("=") for part in sources.written(path).split("/")[:-1])
    named = {unquote(key): unquote(value) for key, equals, value in pairs if equals}
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else value for key, value in named.items()}


def _present(names: list[str], path: str, source: Source) -> list[str]:
    """The wanted columns that the file has. Raises BadInput for one that is missing or there twice."""
    elsewhere = _partition(path)
    for column in source.wanted:
        if names.count(column) > 1:
            raise BadInput(
                f"has the column {column!r} {names.count(column)} times",
                where=_name(path, source),
                next="rename one of them, so that it is clear which one counts",
            )
        if column not in names and column not in elsewhere:
            close = difflib.get_close_matches(column, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            others = ", ".join(repr(name[:100]) for name in names[:20]) or "none"
            raise BadInput(
                f"has no column {column!r}; it has {others}{hint}",
                where=_name(path, source),
                next="write `quoting: minimal` below `data:` in the recipe, if its values stand in quotes"
                if f'"{column}"' in names
                else NEXT,
            )
    for column in source.of_kind("text", "value"):
        if column not in names:
            raise BadInput(f"has the text, {column!r}, in its path only", where=_name(path, source))
    return [column for column in source.wanted if column in names]


def _sliced(pieces: Iterator[Piece], left: Left) -> Iterator[Piece]:
    for table, rows, malformed in pieces:
        left.take(rows=table.num_rows)
        size = max(64, min(BATCH_ROWS, BATCH_BYTES * max(1, table.num_rows) // max(1, table.nbytes)))
        for start in range(0, table.num_rows, size):
            here = {index - start: line for index, line in malformed.items() if start <= index < start + size}
            yield Piece(table.slice(start, size), rows[start : start + size], here)


def _uniform(piece: Piece, source: Source, path: str, number: int) -> Any:
    """The rows with our names and types."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table, size = piece.table, piece.table.num_rows
    constants = _partition(path)

    def column(name: str) -> Any:
        if name in table.column_names:
            values = table.column(name).combine_chunks()
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            return values
        return pa.repeat(pa.scalar(constants[name], pa.string()), size)

    read: dict[Kind, Callable[..., Any]] = {"text": _texts, "name": _strings, "value": _values, "time": _times}
    columns = {key: read[kind](column(name), name, path, source) for key, (name, kind) in source.columns.items()}
    columns.setdefault("text", pa.nulls(size, pa.binary()))
    contents: list[bytes | None] = [None] * size
    reasons: list[str | None] = [None] * size
    for index, line in piece.malformed.items():
        contents[index], reasons[index] = (
            line.content,
            f"row {line.row} of {sources.written(Path(path).name)} {line.why}",
        )
    if piece.malformed:
        columns["text"] = pc.coalesce(pa.array(contents, pa.binary()), columns["text"])
    columns["malformed"] = pa.array(reasons, pa.string()) if piece.malformed else pa.nulls(size, pa.string())
    columns["file"] = pa.array(np.full(size, number, dtype=np.int32))
    columns["row"] = pa.array(piece.rows, pa.int64())
    return pa.table(columns)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    of = pa.types
    texts = (of.is_string, of.is_large_string, of.is_string_view)
    return any(check(kind) for check in (*texts, of.is_binary, of.is_large_binary, of.is_binary_view, of.is_null))


def _as_bytes(values: Any) -> Any:
    import pyarrow as pa

    return values.cast(pa.large_binary()).cast(pa.binary())


def _wrong_type(column: str, kind: Any, expected: str, path: str, source: Source) -> BadInput:
    return BadInput(
        f"has {kind} in the column {column!r}, where {expected} is expected",
        where=_name(path, source),
        next=NEXT,
    )


def _texts(values: Any, name: str, path: str, source: Source) -> Any:
    """The bytes of texts."""
    if not _is_text(values.type):
        raise _wrong_type(name, values.type, "text", path, source)
    return _as_bytes(values)


def _values(values: Any, name: str, path: str, source: Source) -> Any:
    """Lists and structs as JSON text; text as it is, which may be JSON."""
    import pyarrow as pa

    if _is_text(values.type):
        return _strings(values, name, path, source)
    plain = values.to_pylist()
    try:
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in plain], pa.string())
    except TypeError as error:  # bytes, times and other things that JSON has not
        raise _wrong_type(name, values.type, "lists, structs, text or numbers", path, source) from error


def _strings(values: Any, name: str, path: str, source: Source) -> Any:
    """Labels and slices as text; damaged bytes become the replacement character, and so an unknown label."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_floating(kind):
        try:  # whole numbers beside a null are floats where pandas wrote the file
            values, kind = values.cast(pa.int64()), pa.int64()
        except pa.ArrowInvalid as error:
            raise _wrong_type(name, kind, "text or whole numbers", path, source) from error
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise _wrong_type(name, kind, "text or whole numbers", path, source)
    if _is_text(kind):
        values = _as_bytes(values)  # Parquet may call text what is not UTF-8
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        read = [v if v is None else v.decode("utf-8", "replace") for v in values.to_pylist()]
        return pa.array(read, pa.string())


def _times(values: Any, name: str, path: str, source: Source) -> Any:
    """Times in UTC; those without a zone are taken as UTC, unreadable ones are null."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, utc = values.type, pa.timestamp("us", "UTC")
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        exact = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        return exact.cast(utc) if getattr(kind, "tz", None) else pc.assume_timezone(exact, "UTC")
    if not _is_text(kind):
        raise _wrong_type(name, kind, "a time", path, source)
    read = pd.to_datetime(_strings(values, name, path, source).to_pandas(), utc=True, format="ISO8601", errors="coerce")
    naive = pa.array(read.dt.tz_convert(None).to_numpy(), from_pandas=True)
    return pc.assume_timezone(naive.cast(pa.timestamp("us"), safe=False), "UTC")
