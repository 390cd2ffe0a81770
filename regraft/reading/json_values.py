"""Reads JSON Lines whose rows hold lists or objects, which become JSON text: line by line, by Python's own parser.

That takes ten times as long as Arrow's, which has no column of any JSON. A malformed line is a row without values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from regraft.reading import json_lines
from regraft.reading.lines import FIRST_LINES, KEPT, Malformed, Piece, Present, placed


def pieces(
    file: Any, present: Present, columns: list[str], values: frozenset[str], named: frozenset[str]
) -> Iterator[Piece]:
    """The rows of a JSON Lines file, all columns as text.

    Args:
        columns: the wanted columns.
        values: those that may hold anything, which becomes JSON text; a text stays as it is.
        named: those in which numbers count by their text. In all others, what is no text is malformed.

    Raises:
        BadInput: none of the first lines is an object, or one is longer than BLOCK_BYTES.
    """
    import pyarrow as pa

    names: dict[str, None] = {}
    for number, block in enumerate(json_lines.blocks(file)):
        if number == 0:
            names |= json_lines.names_of(json_lines.filled(block)[0][:FIRST_LINES], columns)
        names |= {column: None for column in columns if column not in names and json_lines.has(block, column)}
    wanted = present(list(names))
    file.seek(0)
    first = 1
    for block in json_lines.blocks(file):
        content, rows = json_lines.filled(block)
        read, malformed = [], []
        for line, row in zip(content, rows + first, strict=True):
            try:
                read.append(_record(line, wanted, values, named))
            except ValueError as error:
                malformed.append(Malformed(int(row), line[:KEPT], str(error)))
        schema = pa.schema([(name, pa.string()) for name in wanted])
        yield placed(pa.Table.from_pylist(read, schema), rows + first, malformed)
        first += block.count(b"\n")


def _record(line: bytes, wanted: list[str], values: frozenset[str], named: frozenset[str]) -> dict[str, str | None]:
    """The wanted values of a line, as text. Raises ValueError, which says what is malformed."""
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}") from error
    except (RecursionError, ValueError) as error:
        raise ValueError("cannot be parsed") from error
    if not isinstance(record, dict):
        raise ValueError(json_lines.NO_OBJECT)
    return {name: _text(record.get(name), name, any_value=name in values, numbers=name in named) for name in wanted}


def _text(value: Any, name: str, *, any_value: bool, numbers: bool) -> str | None:
    if value is None:
        return None
    if any_value or isinstance(value, str):
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        except RecursionError as error:  # it was just not too deep to be read
            raise ValueError("cannot be parsed") from error
        return text.encode("utf-8", "replace").decode()  # half a character, as "\\ud800" spells it, is none in UTF-8
    if numbers and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return json.dumps(value) if isinstance(value, bool) else str(int(value))
    raise ValueError(f"has {type(value).__name__} in the column {name!r}, where text is expected")
