"""The rows of a task: their columns, and what identifies one: its input, whose digest says whether a model has seen it.

Arrow and numpy work on the bytes of all texts together; a loop over rows in Python would cost minutes a million rows.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["text", "name", "value", "time"]
"""What is read of a column: bytes of a text; text or whole numbers, as text; anything, as JSON text; times in UTC."""


MALFORMED, NO_TEXT, INVALID = "malformed line", "no text", "invalid UTF-8"
"""Why a row of any task cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are, and what is read of them.

    Attributes:
        location: fsspec URL, path or package://NAME/PATH of a file, a glob or a directory.
        quoting: as the recipe's data.quoting.
        columns: by what we call them, the names of the columns and what is read of them.
        known: of those, what values some have: they tell what is a row in a damaged CSV.
    """

    location: str
    quoting: str
    columns: Mapping[str, tuple[str, Kind]]
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def wanted(self) -> list[str]:
        """The columns of the source that count."""
        return list(dict.fromkeys(name for name, _ in self.columns.values()))

    def of_kind(self, *kinds: Kind) -> frozenset[str]:
        """Columns of the source of which that is read."""
        return frozenset(name for name, kind in self.columns.values() if kind in kinds)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a task, of which each also has `text`, what it is recognised by, `digest` and its slices.

    Attributes:
        read: what is read of the source, by key of the recipe's data.columns. A key that a recipe leaves out is not.
        target: frozen columns that say what is right, of types that can be sorted: numbers or strings.
        reasons: why a row may be set aside, beside the reasons of all tasks.
        missing: those of them that mean that something is missing, with what it is.
    """

    read: Mapping[str, Kind]
    target: tuple[str, ...]
    reasons: tuple[str, ...]
    missing: Mapping[str, str]


_MARKS = r"\p{M}{31}"
"""More marks on one letter than any script has (Unicode's annex 15 allows 30 to a text that is to be streamed)."""


def inputs(text: Any) -> list[str]:
    """Digest of each input: SHA-256 of the tidy text, in hex. Labels do not count: a relabelled row is the same input.

    Args:
        text: string array without nulls.
    """
    return digests(tidy(text))


def seen(rows: Any, trained: Any) -> Any:
    """Which rows have an input that a model was trained on, shape (rows,), bool.

    Args:
        rows: frozen rows.
        trained: the model's train_digests.parquet: `input`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    here = pa.array(inputs(rows["text"].combine_chunks()), pa.string())
    return np.asarray(pc.is_in(here, trained["input"].combine_chunks()), dtype=bool)


def decoded(raw: Any) -> tuple[Any, Any]:
    """Text of a binary array, and which rows are not UTF-8; those have replacement characters in the text."""
    import numpy as np
    import pyarrow as pa

    try:
        return raw.cast(pa.string()), np.zeros(len(raw), dtype=bool)
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in raw.to_pylist()]
        text = pa.array(texts, pa.string())
        same = [a is None or a.encode() == b for a, b in zip(texts, raw.to_pylist(), strict=True)]
        return text, ~np.array(same, dtype=bool)


def tidy(text: Any) -> Any:
    """Unicode NFC, with one space where white space was and none at the ends."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def composed(other: Any) -> Any:
        # Arrow's utf8_normalize decomposes when asked for NFC (25.0); a mended one would move rows between splits.
        endless = pc.match_substring_regex(other, _MARKS).to_pylist()
        values = [
            _sorted_marks(value) if long else value for value, long in zip(other.to_pylist(), endless, strict=True)
        ]
        return pa.array([unicodedata.normalize("NFC", value) for value in values], pa.string())

    def spaced(other: Any) -> Any:
        return pc.binary_join(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(other)), " ")

    return changed(_untidy, changed(not_ascii, text, composed), spaced)


def _untidy(text: Any) -> Any:
    """Which texts may hold other white space than single spaces between words; some that hold none are among them."""
    import numpy as np

    offsets, content = buffers(text)
    mask = not_ascii(text)
    white = (content == 32) | (content >= 9) & (content <= 13) | (content >= 28) & (content <= 31)
    odd = white & (content != 32)
    odd[1:] |= white[1:] & white[:-1]
    filled = offsets[1:] > offsets[:-1]
    mask[filled] |= white[offsets[:-1][filled]] | white[offsets[1:][filled] - 1]
    mask[texts_of(np.flatnonzero(odd), offsets)] = True
    return mask


def _sorted_marks(value: str) -> str:
    """The text with the marks on each letter in Unicode's order: Python's own sorting of them is quadratic."""
    single = "".join([unicodedata.normalize("NFD", character) for character in value])
    parts = itertools.groupby(single, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(part, key=unicodedata.combining) if marks else part) for marks, part in parts)


def digests(strings: Any) -> list[str]:
    """SHA-256 of each string's UTF-8, in hex."""
    offsets, content = buffers(strings)
    view, edges = memoryview(content), offsets.tolist()
    sha = hashlib.sha256
    return [sha(view[a:b]).hexdigest() for a, b in itertools.pairwise(edges)]


def not_ascii(text: Any) -> Any:
    import pyarrow.compute as pc

    return ~pc.string_is_ascii(text).to_numpy(zero_copy_only=False)


def changed(which: Callable[[Any], Any], text: Any, change: Callable[[Any], Any]) -> Any:
    """Applies a change to some texts; the others would pass it unchanged, only slowly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = which(text)
    if not mask.any():
        return text
    mask = pa.array(mask)
    return pc.replace_with_mask(text, mask, change(text.filter(mask)))


def texts_of(positions: Any, offsets: Any) -> Any:
    """The texts that bytes belong to."""
    import numpy as np

    return np.searchsorted(offsets, positions, side="right") - 1


def buffers(text: Any) -> tuple[Any, Any]:
    """Offsets, shape (texts + 1,), and bytes of a string array without nulls."""
    import numpy as np

    offsets = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    content = text.buffers()[2]
    if content is None:
        return np.zeros(len(text) + 1, dtype=np.int32), np.zeros(0, dtype=np.uint8)
    whole = np.frombuffer(content, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], whole
