"""Reads CSV and JSON Lines as a stream of tables, in which a malformed line is a row without values.

What is malformed is the parser's own word: a CSV row that has more or fewer values than the header has columns; a line
that is not one JSON object, or has a value of another type than most lines. A quote that a CSV row opens and does not
close takes what follows, up to the next quote, into that row.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from regraft.errors import BadInput

BLOCK_BYTES = 32 << 20
"""Bytes that are parsed at once, and so the length of the longest line."""
FIRST_LINES = 1000
"""Lines that tell the types of JSON values; a file whose first lines are all malformed is not of its format."""
KEPT = 1000
"""Bytes that are kept of a malformed line."""
BRANCHES, LOOKED_AT = 8, 64
"""Parts that lines are cut into while the malformed ones are sought; lines that are looked at one by one."""
NO_OBJECT = "is not one JSON object"
_TYPES = {"bool": (bool,), "int64": (int,), "double": (int, float), "binary": (str,)}
"""What Python makes of a value that fits a column of an Arrow type."""

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


def csv_parts(file: Any, present: Present, delimiter: str) -> Iterator[Part]:
    """The rows of a CSV file with a header.

    Raises:
        BadInput: the header is not UTF-8.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    head = io.TextIOWrapper(_Unclosed(file), encoding="utf-8-sig", errors="surrogateescape", newline="")
    names = next(csv.reader(head, delimiter=delimiter), [])
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        raise BadInput(f"cannot be read: its header is not UTF-8: {names}")
    file.seek(0)
    columns = present(names)
    source, waiting, first = _Escaped(file), deque[Malformed](), 1

    def aside(row: Any) -> str:
        number = row.number - 1  # the header is a row
        why = f"has {row.actual_columns} of the header's {row.expected_columns} values"
        waiting.append(Malformed(number, unescaped(row.text[:KEPT].encode())[:KEPT], why))
        return "error" if number == len(waiting) == FIRST_LINES else "skip"

    reader = arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(
            block_size=BLOCK_BYTES, use_threads=False
        ),  # with threads, rows have no number
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, delimiter=delimiter, invalid_row_handler=aside),
        convert_options=arrow_csv.ConvertOptions(
            check_utf8=False, include_columns=columns, column_types=dict.fromkeys(columns, pa.binary())
        ),
    )
    for block in reader:
        table, here = pa.table(block), list[Malformed]()
        if source.escaped:
            table = pa.table({name: _column_unescaped(table.column(name)) for name in columns})
        while waiting and waiting[0].row < first + table.num_rows + len(here):
            here.append(waiting.popleft())
        rows = np.arange(first, first + table.num_rows + len(here))
        yield _placed(table, rows, here)
        first += len(rows)
    if waiting:
        nothing = pa.schema([(column, pa.binary()) for column in columns]).empty_table()
        yield _placed(nothing, np.arange(first, first + len(waiting)), list(waiting))


def json_parts(file: Any, present: Present, columns: list[str]) -> Iterator[Part]:
    """The rows of a JSON Lines file.

    Args:
        columns: the wanted columns, whose types the first lines tell.

    Raises:
        BadInput: none of the first lines is an object, or one is longer than BLOCK_BYTES.
    """
    import numpy as np

    schema = _schema(next(_blocks(file), b"").split(b"\n")[:FIRST_LINES], present, columns)
    file.seek(0)
    first = 1
    for block in _blocks(file):
        if table := _wholly_sound(block, schema):
            yield Part(table, np.arange(first, first + table.num_rows), {})
            first += table.num_rows
            continue
        lines = [line.strip() for line in block.removesuffix(b"\n").split(b"\n")]
        rows = np.flatnonzero([bool(line) for line in lines]) + first
        first += len(lines)
        yield _sorted_out(list(filter(None, lines)), rows, schema)


def _blocks(file: Any) -> Iterator[bytes]:
    """The bytes of a file in blocks of whole lines."""
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while chunk := file.read(BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if not cut and len(rest) + len(chunk) > BLOCK_BYTES:
            raise BadInput(f"has a line longer than {BLOCK_BYTES >> 20} MiB")
        if cut:
            yield rest + chunk[:cut]
            rest = b""
        rest += chunk[cut:]
    if rest:
        yield rest


def _schema(lines: list[bytes], present: Present, columns: list[str]) -> Any:
    """The wanted columns with the types that most lines have; text is taken as bytes."""
    import pyarrow as pa

    names: dict[str, None] = {}
    types = {column: Counter[type]() for column in columns}
    trouble = None
    for line in filter(None, map(bytes.strip, lines)):
        try:
            record = json.loads(line.decode("utf-8", "replace"))
        except ValueError as error:
            trouble = trouble or f"has a line that is not JSON: {error}"
            continue
        if not isinstance(record, dict):
            trouble = trouble or "is not JSON Lines, which has one {…} object a line"
            continue
        names |= dict.fromkeys(record)
        for column in columns:
            if (value := record.get(column)) is not None:
                types[column][type(value)] += 1
    if trouble and not names:
        raise BadInput(trouble)
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}  # as in _TYPES
    most = {column: next(iter(counts.most_common(1)), (str, 0))[0] for column, counts in types.items()}
    return pa.schema([(column, kinds.get(most[column], pa.binary())) for column in present(list(names))])


def _wholly_sound(block: bytes, schema: Any) -> Any:
    """The table of a block of which every line is an object, else None."""
    import numpy as np
    import pyarrow as pa

    content = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(content))
    starts = np.append(0, ends[:-1] + 1)
    last = content[ends - 1]
    returns = last == ord("\r")
    last[returns] = content[ends[returns] - 2]
    # Arrow would skip blank lines, join two objects on a line, and crash on a block whose only value is null.
    if not ((content[starts] == ord("{")) & (last == ord("}"))).all():
        return None
    try:
        table = _parsed(block, schema)
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == len(ends) else None


def _sorted_out(lines: list[bytes], rows: Any, schema: Any) -> Part:
    """The rows of lines of which some are malformed: parses ever smaller parts of those that fail.

    Args:
        lines: none of them blank.
        rows: their numbers.
    """
    import pyarrow as pa

    tables, whys = [schema.empty_table()], dict[int, str]()
    parts = [list(range(len(lines)))]
    while parts:
        part = parts.pop()
        table, complaint = _table_or_complaint([lines[i] for i in part], schema)
        if table is not None:
            tables.append(table)
        elif len(part) <= LOOKED_AT and (wrong := {i: why for i in part if (why := _wrong(lines[i], schema))}):
            whys |= wrong
            parts.append([i for i in part if i not in wrong])
        elif len(part) == 1:
            whys[part[0]] = complaint
        else:
            size = -(-len(part) // BRANCHES)
            parts += [part[at : at + size] for at in range(0, len(part), size)][::-1]
    malformed = [Malformed(int(rows[i]), lines[i][:KEPT], why) for i, why in sorted(whys.items())]
    return _placed(pa.concat_tables(tables), rows, malformed)


def _table_or_complaint(lines: list[bytes], schema: Any) -> tuple[Any, str]:
    import pyarrow as pa

    if not lines:
        return schema.empty_table(), ""
    if not all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        return None, NO_OBJECT
    try:
        table = _parsed(b"\n".join(lines), schema)
    except pa.ArrowInvalid as error:
        return None, str(error).partition(" in row ")[0]
    return (table, "") if table.num_rows == len(lines) else (None, NO_OBJECT)


def _wrong(line: bytes, schema: Any) -> str | None:
    """Why Arrow will not parse a line, if that is plain to see: asking Arrow takes a hundred times as long."""
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except RecursionError:
        return None
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} at character {error.pos + 1}"
    if not isinstance(record, dict):
        return NO_OBJECT
    for field in schema:
        value = record.get(field.name)
        if value is not None and type(value) not in _TYPES[str(field.type)]:
            most = {"binary": "text"}.get(str(field.type), str(field.type))
            return f"has {type(value).__name__} in the column {field.name!r}, where most rows have {most}"
    return None


def _parsed(block: bytes, schema: Any) -> Any:
    """Raises pa.ArrowInvalid."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    return arrow_json.read_json(
        pa.BufferReader(block),
        read_options=arrow_json.ReadOptions(block_size=len(block), use_threads=False),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _placed(table: Any, rows: Any, malformed: list[Malformed]) -> Part:
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


class _Unclosed(io.BufferedIOBase):
    """Lets a text wrapper look at the head of a file without closing the file with itself."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        return bytes(self._file.read(65_536 if size < 0 else size))


class _Escaped(io.RawIOBase):
    """A file whose bytes that are not UTF-8 are escaped: Arrow shows a malformed row only where it is UTF-8."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ready = b""
        self.escaped = False
        """Whether there was such a byte."""

    def readable(self) -> bool:
        return True

    def read(self, size: int, /) -> bytes:
        """So many bytes, but at the end: Arrow takes what it gets for a block, and a line may cross one border only."""
        while len(self._ready) < size:
            raw = self._file.read(size - len(self._ready))
            text = self._decoder.decode(raw, final=not raw)
            try:
                self._ready += text.encode()
            except UnicodeEncodeError:
                self.escaped = True
                self._ready += text.translate(_ESCAPES).encode()
            if not raw:
                break
        given, self._ready = self._ready[:size], self._ready[size:]
        return given


# The last characters of Unicode's last plane for private use, in the order of the bytes that they stand for.
_ESCAPES = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_BYTES = {escape: surrogate for surrogate, escape in _ESCAPES.items()}
_FIRST_OF_ESCAPES = chr(0x10FF80).encode()[:2]


def unescaped(content: bytes) -> bytes:
    """The bytes as they were in the file."""
    return content.decode("utf-8", "ignore").translate(_BYTES).encode("utf-8", "surrogateescape")


def _column_unescaped(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks()
    escaped = pc.fill_null(pc.match_substring(column, _FIRST_OF_ESCAPES), False)
    values = [unescaped(value) for value in column.filter(escaped).to_pylist()]
    return pc.replace_with_mask(column, escaped, pa.array(values, pa.binary()))
