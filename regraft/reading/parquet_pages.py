"""What the pages of a Parquet file become when they are decoded, read from the pages' own headers.

The file's footer says how large its columns are, and nobody compares it with the pages, which count. A few bytes there
stand for any number of rows with a text of any length: a dictionary holds the text once, a run length all the rows.
A header is a struct of Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md), whose fields
are numbered as in apache/parquet-format, parquet.thrift.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from regraft.errors import BadInput

PAGE = 1 << 30
"""Bytes of a page: writers have 1 MB, some few a whole file."""
ELEMENTS = 1 << 27
"""Elements of all lists of a column in one row group."""
DEEPEST = 8
"""Structs within structs in a header; there are three in those of today."""
_LENGTH = struct.Struct("<I")
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_FRONT_CODED, _BY_DICTIONARY = 7, (2, 8)


class Decoded(NamedTuple):
    """What a column of a row group becomes.

    Attributes:
        size: bytes at most, all rows together.
        largest: bytes that a row has at most, on average over any page; a page's values may differ among each other.
    """

    size: int
    largest: int


def decoded(chunk: bytes, column: Any) -> Decoded:
    """What a column of a row group becomes.

    Args:
        chunk: its bytes in the file.
        column: pyarrow's ColumnChunkMetaData of it.

    Raises:
        BadInput: a page is too large, or its header is damaged.
    """
    at, values, size, largest, in_dictionary = 0, 0, 0, 0, 0
    while values < column.num_values and at < len(chunk):
        try:
            header, at = _struct(chunk, at)
            kind, unpacked, packed = (int(header[number]) for number in (1, 2, 3))
            about = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}.get(kind, 0), {})
            count = int(about.get(1, 0))
            encoding = about.get(4 if kind == _DATA_2 else 2)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"cannot be read: the header of a page of {column.path_in_schema!r} is damaged") from error
        if unpacked > PAGE:
            raise BadInput(
                f"has a page of {unpacked:,} bytes in {column.path_in_schema!r}; at most {PAGE:,} are read at once",
                next="write the file again with pages of 1 MB, as pyarrow does",
            )
        if kind == _DICTIONARY:
            in_dictionary = _longest(chunk[at : at + packed], unpacked, count, column)
        elif kind in (_DATA, _DATA_2):
            values += max(0, count)
            each = max(0, unpacked) // max(1, count) + 1
            if encoding in _BY_DICTIONARY:
                each = in_dictionary
            elif encoding == _FRONT_CODED:
                each = max(0, unpacked)  # each may repeat all that stands before it
            size += (each + 8) * max(0, count)
            largest = max(largest, each + 8)
        at += max(0, packed)
    return Decoded(size, largest)


def _longest(packed: bytes, unpacked: int, count: int, column: Any) -> int:
    """Bytes of the longest value in a dictionary, or of them all where that cannot be told."""
    import pyarrow as pa

    if column.physical_type != "BYTE_ARRAY":
        return unpacked // max(1, count) + 1
    codec = {"UNCOMPRESSED": None, "LZ4": "lz4_raw"}.get(column.compression, column.compression.lower())
    try:
        content = bytes(pa.Codec(codec).decompress(packed, unpacked)) if codec else packed
    except (OSError, ValueError):  # Hadoop's LZ4; or it is damaged, and Arrow will say so
        return unpacked
    at, longest, end = 0, 0, len(content) - 4
    while at <= end and count > 0:
        (length,) = _LENGTH.unpack_from(content, at)
        if length > longest:
            longest = length
        at, count = at + 4 + length, count - 1
    return longest


def _struct(content: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Numbers and structs among the fields of a struct, and where it ends. Raises IndexError or ValueError."""
    fields, number = dict[int, Any](), 0
    if depth > DEEPEST:
        raise ValueError("structs within structs")
    while kind := content[at] & 15:
        step, at = content[at] >> 4, at + 1
        if step:
            number += step
        else:
            number, at = _integer(content, at)
        if kind not in (1, 2):  # true and false have no value
            fields[number], at = _value(content, at, kind, depth)
    return fields, at + 1


def _value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return None, at + 1
    if kind in (4, 5, 6):
        return _integer(content, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(content, at)
        return None, at + length
    if kind in (9, 10):
        size, of, at = content[at] >> 4, content[at] & 15, at + 1
        if size == 15:
            size, at = _varint(content, at)
        for _ in range(size):
            _, at = _value(content, at, of, depth)
        return None, at
    if kind == 12:
        return _struct(content, at, depth + 1)
    raise ValueError(f"a field of the unknown type {kind}")


def _integer(content: bytes, at: int) -> tuple[int, int]:
    """A signed number, which is written with its sign last."""
    number, at = _varint(content, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        byte = content[at + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise ValueError("a number of more than ten bytes")
