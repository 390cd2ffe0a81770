"""The rows of pretraining: documents, and how long each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regraft.causal import rows as causal_rows
from regraft.exchange import Check, Read, Seen
from regraft.rows import Rows
from regraft.tasks.pretraining.recipe import Data

(NO_LETTER,) = REASONS = ("no letter in it",)

ROWS = Rows(read={"text": "text"}, target=("characters",), reasons=REASONS, missing={})

LENGTHS = (100, 300, 1_000, 3_000, 10_000, 30_000)
"""Characters up to which documents are counted together."""


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    text = table["text"].fill_null("")
    characters = pc.utf8_length(text)
    return Read(
        text=table["text"],
        target={"characters": characters.cast(pa.int64())},
        problems=[(NO_LETTER, ~np.asarray(pc.match_substring_regex(text, r"\p{L}")))],
        shown=_said(characters),
    )


def _said(characters: Any) -> Any:
    """Lengths as people read them."""
    import pyarrow as pa

    return pa.array([f"{length:,} characters" for length in characters.to_pylist()], pa.string())


def shown(target: Any, data: Data) -> Any:
    """How long the documents are."""
    return _said(target["characters"])


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """No column has a fixed set of values."""
    return {}


def named(data: Data, values: Sequence[str]) -> str:
    """Nothing: no value is unknown."""
    return ""


def counts(target: Any, data: Data) -> dict[str, int]:
    """Documents by their length in characters."""
    import numpy as np

    place = np.searchsorted(LENGTHS, target["characters"].to_numpy(), side="left")
    names = [f"up to {most:,} characters" for most in LENGTHS] + [f"more than {LENGTHS[-1]:,} characters"]
    return dict(zip(names, np.bincount(place, minlength=len(names)).tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there documents in each split, as long as before?"""
    return causal_rows.checks(data, seen, these="documents")
