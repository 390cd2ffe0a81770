"""The rows of summarization: a document and its summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regraft.causal import rows as causal_rows
from regraft.exchange import Check, Read, Seen
from regraft.rows import Rows, tidy
from regraft.tasks.summarization.recipe import Data

NONE, SAME = REASONS = ("no summary", "summary is the whole text")

ROWS = Rows(
    read={"text": "text", "summary": "name"},
    target=("summary",),
    reasons=REASONS,
    missing={NONE: "a summary"},
)

LENGTHS = (5, 10, 20, 40, 80, 160)
"""Words up to which summaries are counted together."""


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are."""
    import numpy as np
    import pyarrow.compute as pc

    summary = tidy(table["summary"].fill_null(""))
    same = pc.equal(tidy(table["text"].fill_null("")), summary)
    empty = pc.equal(summary, "")
    return Read(
        text=table["text"],
        target={"summary": summary},
        problems=[(reason, np.asarray(of)) for reason, of in zip(REASONS, (empty, same), strict=True)],
        shown=summary,
    )


def shown(target: Any, data: Data) -> Any:
    """The summaries."""
    return target["summary"].combine_chunks()


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """No column has a fixed set of values."""
    return {}


def named(data: Data, values: Sequence[str]) -> str:
    """Nothing: no value is unknown."""
    return ""


def counts(target: Any, data: Data) -> dict[str, int]:
    """Rows by the length of their summary, in words; in characters where words are not written apart."""
    import numpy as np
    import pyarrow.compute as pc

    unit = "characters" if data.language == "characters" else "words"
    summary = target["summary"].combine_chunks()
    length = (
        pc.utf8_length(summary) if unit == "characters" else pc.list_value_length(pc.utf8_split_whitespace(summary))
    )
    place = np.searchsorted(LENGTHS, np.asarray(length), side="left")
    names = [f"up to {most} {unit}" for most in LENGTHS] + [f"more than {LENGTHS[-1]} {unit}"]
    return dict(zip(names, np.bincount(place, minlength=len(names)).tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there rows in each split, and summaries as long as before?"""
    return causal_rows.checks(data, seen, these="summaries")
