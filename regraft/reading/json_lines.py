"""Reads JSON Lines as a stream of tables, in which a malformed line is a row without values.

What is malformed is a line that is not one JSON object, or has a value of another type than most lines of the file.
Labels and slices count by their text: there 1, "1" and 1.0 are alike.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from regraft.errors import BadInput
from regraft.reading import lines
from regraft.reading.lines import FIRST_LINES, KEPT, Malformed, Piece, Present, placed

BRANCHES, LOOKED_AT = 8, 64
"""Parts that lines are cut into while the malformed ones are sought; lines that are looked at one by one."""
COUNTED_AT_ONCE = 2048
"""Lines whose types are counted one by one when Arrow does not find them alike."""
MOST_LINES = 1 << 19
"""Lines of a block."""
NO_OBJECT = "is not one JSON object"
_TYPES = {"bool": (bool,), "int64": (int,), "double": (int, float), "binary": (str,)}
"""What Python makes of a value that fits a column of an Arrow type."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")
"""Whole numbers as they are printed; a float holds each of them exactly."""


def pieces(file: Any, present: Present, columns: list[str], named: frozenset[str]) -> Iterator[Piece]:
    """The rows of a JSON Lines file. It is read twice: what type a column has, all its lines tell.

    Args:
        columns: the wanted columns.
        named: those whose values count by their text.

    Raises:
        BadInput: none of the first lines is an object, or one is longer than BLOCK_BYTES.
    """
    import numpy as np

    schema = _schema(file, present, columns)
    file.seek(0)
    first = 1
    for block in blocks(file):
        if table := _wholly_sound(block, schema):
            yield Piece(table, np.arange(first, first + table.num_rows), {})
            first += table.num_rows
            continue
        content, rows = filled(block)
        yield _sorted_out(content, rows + first, schema, named)
        first += block.count(b"\n")


def blocks(file: Any) -> Iterator[bytes]:
    """The bytes of a file in blocks of whole lines, not too many: each that is malformed takes 500 bytes."""
    for block in _whole_lines(file):
        if block.count(b"\n") <= MOST_LINES:
            yield block
            continue
        lines_of = io.BytesIO(block)
        while some := b"".join(itertools.islice(lines_of, MOST_LINES)):
            yield some


def _whole_lines(file: Any) -> Iterator[bytes]:
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while chunk := file.read(lines.BLOCK_BYTES):
        cut = chunk.rfind(b"\n") + 1
        if not cut and len(rest) + len(chunk) > lines.BLOCK_BYTES:
            raise BadInput(f"has a line longer than {lines.BLOCK_BYTES >> 20} MiB")
        if cut:
            yield rest + chunk[:cut]
            rest = b""
        rest += chunk[cut:]
    if rest:
        yield rest


def filled(block: bytes) -> tuple[list[bytes], Any]:
    """The lines of a block that are not blank, and their numbers from 0."""
    import numpy as np

    content = [line.strip() for line in block.removesuffix(b"\n").split(b"\n")]
    return list(filter(None, content)), np.flatnonzero([bool(line) for line in content])


def _schema(file: Any, present: Present, columns: list[str]) -> Any:
    """The wanted columns with the types that most lines have; text is taken as bytes."""
    names: dict[str, None] = {}
    types = {column: Counter[str]() for column in columns}
    for number, block in enumerate(blocks(file)):
        if number == 0:
            names |= names_of(filled(block)[0][:FIRST_LINES], columns)
        table = _wholly_sound(block, guess := _most(types, columns))
        if table is not None and "double" not in map(str, guess.types):  # which says nothing of whole numbers
            _count(table, types)
        else:
            content = filled(block)[0]
            for at in range(0, len(content), COUNTED_AT_ONCE):
                _count_lines(content[at : at + COUNTED_AT_ONCE], types)
        for column in columns:
            if column not in names and (types[column] or has(block, column)):
                names[column] = None
    return _most(types, present(list(names)))


def _most(types: dict[str, Counter[str]], columns: list[str]) -> Any:
    """The columns with their most frequent types; text before numbers where they are equally many."""
    import pyarrow as pa

    kinds = {"binary": pa.binary(), "int64": pa.int64(), "bool": pa.bool_(), "double": pa.float64()}
    return pa.schema([(column, kinds[max(kinds, key=types[column].__getitem__)]) for column in columns])


def names_of(content: list[bytes], columns: list[str]) -> dict[str, None]:
    """The keys of a file's first lines. Raises BadInput where none is an object."""
    names: dict[str, None] = {}
    trouble, objects = None, 0
    for line in content:
        try:
            record = json.loads(line.decode("utf-8", "replace"))
        except json.JSONDecodeError as error:
            trouble = trouble or f"has a line that is not JSON: {error}"
            continue
        except (RecursionError, ValueError):  # nested too deep, a number too long: Arrow may read it
            objects += _probed(line, columns) is not None
            trouble = trouble or "has a line that cannot be parsed"
            continue
        if not isinstance(record, dict):
            trouble = trouble or "is not JSON Lines, which has one {…} object a line"
            continue
        objects += 1
        names |= dict.fromkeys(record)
    if trouble and not objects:
        raise BadInput(trouble)
    return names


def _count(table: Any, types: dict[str, Counter[str]]) -> None:
    for field, column in zip(table.schema, table.columns, strict=True):
        if count := len(column) - column.null_count:
            types[field.name][str(field.type)] += count


def _count_lines(content: list[bytes], types: dict[str, Counter[str]]) -> None:
    """Adds the types of lines that may be of any kind; what is no value of a column counts for nothing."""
    columns = list(types)
    guess = _most(types, columns)
    if "double" not in map(str, guess.types):
        table, _ = _table_or_complaint(content, guess)
        if table is not None:
            return _count(table, types)
    for line in content:
        try:
            record = json.loads(line.decode("utf-8", "replace"))
        except json.JSONDecodeError:
            continue
        except (RecursionError, ValueError):
            if (table := _probed(line, columns)) is not None:
                _count(table, types)
            continue
        if isinstance(record, dict):
            for column in columns:
                value = record.get(column)
                if kind := next((name for name, of in _TYPES.items() if type(value) in of), None):
                    types[column]["double" if type(value) is float else kind] += 1
    return None


def _probed(line: bytes, columns: list[str]) -> Any:
    """The values of a line that Python does not parse, being nested too deep, or None."""
    import pyarrow as pa

    probed = {}
    for column in columns:
        for kind in (pa.binary(), pa.int64(), pa.bool_(), pa.float64()):
            table, _ = _table_or_complaint([line], pa.schema([(column, kind)]))
            if table is not None:
                probed[column] = table.column(0)
                break
    return pa.table(probed) if probed else None


def has(block: bytes, column: str) -> bool:
    """Whether a line of a block has the column as a key."""
    spelled = {json.dumps(column).encode(), json.dumps(column, ensure_ascii=False).encode("utf-8", "replace")}
    if not any(key in block for key in spelled):
        return False
    for line in block.split(b"\n"):
        if any(key in line for key in spelled):
            try:
                record = json.loads(line.decode("utf-8", "replace"))
            except (RecursionError, ValueError):
                continue
            if isinstance(record, dict) and column in record:
                return True
    return False


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


def _sorted_out(lines: list[bytes], rows: Any, schema: Any, named: frozenset[str]) -> Piece:
    """The rows of lines of which some are malformed: parses ever smaller parts of those that fail.

    Args:
        lines: none of them blank.
        rows: their numbers.
    """
    import pyarrow as pa

    tables, whys, meant = [schema.empty_table()], dict[int, str](), list(lines)
    parts = [list(range(len(lines)))]
    while parts:
        part = parts.pop()
        table, complaint = _table_or_complaint([meant[i] for i in part], schema)
        if table is not None:
            tables.append(table)
        elif len(part) <= LOOKED_AT and (wrong := {i: why for i in part if (why := _wrong(meant[i], schema))}):
            for i, why in wrong.items():
                if alike := _alike(lines[i], schema, named):
                    meant[i] = alike
                else:
                    whys[i] = why
            parts.append([i for i in part if i not in whys])
        elif len(part) == 1:
            whys[part[0]] = complaint
        else:
            size = -(-len(part) // BRANCHES)
            parts += [part[at : at + size] for at in range(0, len(part), size)][::-1]
    malformed = [Malformed(int(rows[i]), lines[i][:KEPT], why) for i, why in sorted(whys.items())]
    return placed(pa.concat_tables(tables), rows, malformed)


def _table_or_complaint(lines: list[bytes], schema: Any) -> tuple[Any, str]:
    import pyarrow as pa

    if not lines:
        return schema.empty_table(), ""
    if not all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        return None, NO_OBJECT
    try:
        table = _parsed(b"\n".join(lines), schema)
    except pa.ArrowInvalid as error:
        what = str(error).partition(" in row ")[0].removeprefix("JSON parse error: ").rstrip(".")
        what = re.sub(r"Column\(/(.*)\)", r"the column '\1'", what)
        return None, f"cannot be parsed: {what[:1].lower()}{what[1:200]}"
    return (table, "") if table.num_rows == len(lines) else (None, NO_OBJECT)


def _wrong(line: bytes, schema: Any) -> str | None:
    """Why Arrow will not parse a line, if that is plain to see: asking Arrow takes a hundred times as long."""
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
    except (RecursionError, ValueError):  # nested too deep, a number too long
        return None
    if not isinstance(record, dict):
        return NO_OBJECT
    for field in schema:
        value = record.get(field.name)
        if value is not None and type(value) not in _TYPES[str(field.type)]:
            most = {"binary": "text"}.get(str(field.type), str(field.type))
            return f"has {type(value).__name__} in the column {field.name!r}, where most rows have {most}"
    return None


def _alike(line: bytes, schema: Any, named: frozenset[str]) -> bytes | None:
    """The line with the types of the columns, if it differs only in values whose text stays the same, else None."""
    try:
        pairs = json.loads(line.decode(), object_pairs_hook=list) if line.startswith(b"{") else []
        values = dict(pairs)
        if not pairs or len(values) < len(pairs):
            return None
        kept = {field.name: values.get(field.name) for field in schema}
        for name in named.intersection(kept):
            kept[name] = _of_type(str(schema.field(name).type), kept[name])
        alike = json.dumps(kept).encode()
    except (RecursionError, ValueError):
        return None
    return None if _wrong(alike, schema) else alike


def _of_type(kind: str, value: Any) -> Any:
    """A whole number or its text as a column's type has it; any other value as it is."""
    text = f"{value:.0f}" if type(value) is float and value.is_integer() else str(value)
    if kind == "bool" or type(value) not in (int, float, str) or not _WHOLE.fullmatch(text):
        return value
    return text if kind == "binary" else int(text)


def _parsed(block: bytes, schema: Any) -> Any:
    """Raises pa.ArrowInvalid."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    return arrow_json.read_json(
        pa.BufferReader(block),
        read_options=arrow_json.ReadOptions(block_size=len(block), use_threads=False),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
