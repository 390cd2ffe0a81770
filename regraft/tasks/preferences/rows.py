"""The rows of preferences: a conversation, the answer to it that people prefer, and another, all as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from regraft.causal import conversations
from regraft.causal import rows as causal_rows
from regraft.causal.conversations import DAMAGED, KNOWN, ROLE, content, deep, judged
from regraft.exchange import Check, Read, Seen
from regraft.rows import Rows
from regraft.tasks.preferences.recipe import Data

NO_CHOSEN, NO_REJECTED, SAME = OWN = ("no chosen answer", "no rejected answer", "both answers are the same")
REASONS = (*OWN, *(reason for reason in conversations.REASONS if reason != conversations.NONE))

ROWS = Rows(
    read={"prompt": "value", "chosen": "value", "rejected": "value"},
    target=("chosen", "rejected"),
    reasons=REASONS,
    missing={NO_CHOSEN: "a chosen answer", NO_REJECTED: "a rejected answer"},
)

BY_LENGTH = ("chosen twice as long", "chosen longer", "both as long", "rejected longer", "rejected twice as long")
"""How pairs are counted: who prefers long answers mostly teaches length."""


class Pair(NamedTuple):
    """A row as it is read; the answers only where there is no problem."""

    text: str | None
    chosen: str | None = None
    rejected: str | None = None
    problem: str | None = None
    role: str | None = None
    said: str | None = None


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are.

    Args:
        table: string arrays by key of `data.columns`: prompt, chosen, rejected; lists as JSON.
    """
    import numpy as np
    import pyarrow as pa

    sides = (table[key].to_pylist() for key in ROWS.read)
    found = [_pair(*values) for values in zip(*sides, strict=True)]
    problems = np.array([row.problem or "" for row in found], dtype=object)
    return Read(
        text=pa.array([row.text for row in found], pa.string()),
        target={key: pa.array([getattr(row, key) for row in found], pa.string()) for key in ROWS.target},
        problems=[(reason, problems == reason) for reason in REASONS],
        shown=pa.array([_shown(row.chosen, row.rejected) for row in found], pa.string()),
        words=pa.array([row.said or row.text for row in found], pa.string()),
        unknown={ROLE: pa.array([row.role for row in found], pa.string())},
    )


def _pair(prompt: str | None, chosen: str | None, rejected: str | None) -> Pair:
    """A row; what is wrong with it, where something is. Of one without a prompt all tasks say the same."""
    asked, sides = _turns(prompt, "user"), []
    if not asked:
        return Pair(None)
    for value, none in ((chosen, NO_CHOSEN), (rejected, NO_REJECTED)):
        if not (turns := _turns(value, "assistant")):
            return Pair(prompt, problem=none)
        *before, last = turns
        if before not in ([], asked):
            return Pair(prompt, problem=DAMAGED)
        side = judged([*asked, last], str(prompt))
        if side.problem:
            return Pair(prompt, problem=side.problem, role=side.role)
        sides.append(side)
    one, other = sides
    answers = (str(one.answer), str(other.answer))
    same = len({" ".join(content(answer).split()) for answer in answers}) == 1
    return Pair(one.text, *answers, problem=SAME if same else None, said=one.said)


def _turns(value: str | None, role: str) -> list[dict[str, Any]]:
    """The messages that a value is, none where it says nothing; a text is one of that role, and so is a list of
    anything else. Messages that nothing can be compared with are one without a role."""
    if value is None or value.strip() in ("", "null"):
        return []
    try:
        found = json.loads(value) if value.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(isinstance(one, dict) and not {"role", "from"}.isdisjoint(one) for one in found):
        return [{}] if deep(found) else found
    return [{"role": role, "content": value}]


def _shown(chosen: str | None, rejected: str | None) -> str | None:
    return None if chosen is None or rejected is None else f"{content(chosen)} - rather than: {content(rejected)}"


def shown(target: Any, data: Data) -> Any:
    """Both answers."""
    import pyarrow as pa

    pairs = zip(target["chosen"].to_pylist(), target["rejected"].to_pylist(), strict=True)
    return pa.array([_shown(*pair) for pair in pairs], pa.string())


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """No column has a fixed set of values."""
    return {}


def named(data: Data, values: Sequence[str]) -> str:
    """A clause about roles that there are not."""
    return f"{', '.join(map(repr, values))}; roles are {', '.join(KNOWN)}"


def counts(target: Any, data: Data) -> dict[str, int]:
    """Rows by which of their answers is longer, in words."""
    import numpy as np

    one, other = (
        np.array([len(content(answer).split()) for answer in target[key].to_pylist()], dtype=int) for key in ROWS.target
    )
    places = np.select([one >= 2 * other, one > other, one == other, 2 * one > other], [0, 1, 2, 3], default=4)
    return dict(zip(BY_LENGTH, np.bincount(places, minlength=len(BY_LENGTH)).tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there rows in each split, and answers as much longer than each other as before?"""
    return causal_rows.checks(data, seen, these="answers")
