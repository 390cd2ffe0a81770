"""The rows of preferences: a conversation, the answer to it that people prefer, and another, all as JSON.

An answer that people liked or disliked by itself is the chosen or the rejected one; the other is empty.
"""

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

NO_CHOSEN, NO_REJECTED, SAME, NO_ANSWER, NO_WORD = OWN = (
    "no chosen answer",
    "no rejected answer",
    "both answers are the same",
    "no answer",
    "neither liked nor disliked",
)
REASONS = (*OWN, *(reason for reason in conversations.REASONS if reason != conversations.NONE))

ROWS = Rows(
    read=dict.fromkeys(("prompt", "chosen", "rejected", "answer", "liked"), "value"),
    target=("chosen", "rejected"),
    reasons=REASONS,
    missing={NO_CHOSEN: "a chosen answer", NO_REJECTED: "a rejected answer"},
)

LIKED = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""Words for a thumb up and for one down, letters' case aside."""
BY_LIKING = ("liked", "disliked")
BY_LENGTH = ("chosen twice as long", "chosen longer", "both as long", "rejected longer", "rejected twice as long")
"""How pairs are counted: who prefers long answers mostly teaches length."""


class Pair(NamedTuple):
    """A row as it is read; the answers only where there is no problem, and empty where there is but one."""

    text: str | None
    chosen: str | None = None
    rejected: str | None = None
    problem: str | None = None
    role: str | None = None
    said: str | None = None


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are.

    Args:
        table: string arrays by key of `data.columns`: prompt; chosen, rejected, or answer, liked; lists as JSON.
    """
    import numpy as np
    import pyarrow as pa

    read, keys = (_single, ("answer", "liked")) if data.columns.liked else (_pair, ("chosen", "rejected"))
    sides = (table[key].to_pylist() for key in ("prompt", *keys))
    found = [read(*values) for values in zip(*sides, strict=True)]
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
    """A row of two answers; what is wrong with it, where something is."""
    asked, sides = _turns(prompt, "user"), []
    for value, none in ((chosen, NO_CHOSEN), (rejected, NO_REJECTED)):
        side = _side(prompt, asked, value, none)
        if side.problem or not asked:
            return Pair(side.text, problem=side.problem, role=side.role)
        sides.append(side)
    one, other = sides
    answers = (str(one.answer), str(other.answer))
    same = len({" ".join(content(answer).split()) for answer in answers}) == 1
    return Pair(one.text, *answers, problem=SAME if same else None, said=one.said)


def _single(prompt: str | None, answer: str | None, liked: str | None) -> Pair:
    """A row of one answer; what is wrong with it, where something is."""
    asked = _turns(prompt, "user")
    side, is_liked = _side(prompt, asked, answer, NO_ANSWER), LIKED.get((liked or "").strip(' "').lower())
    if side.problem or not asked or is_liked is None:
        return Pair(side.text, problem=side.problem or (NO_WORD if asked else None), role=side.role)
    answer = str(side.answer)
    chosen, rejected = (answer, "") if is_liked else ("", answer)
    return Pair(side.text, chosen, rejected, said=side.said)


def _side(prompt: str | None, asked: list[dict[str, Any]], value: str | None, none: str) -> conversations.Row:
    """A conversation with one answer. Of a row without a prompt all tasks say the same.

    Args:
        asked: the turns of its prompt.
        none: what is wrong where there is no answer.
    """
    if not asked:
        return conversations.Row(None, None)
    if not (turns := _turns(value, "assistant")):
        return conversations.Row(prompt, None, none)
    *before, last = turns
    if before not in ([], asked):
        return conversations.Row(prompt, None, DAMAGED)
    side = judged([*asked, last], str(prompt))
    return side._replace(text=prompt) if side.problem else side


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
    if chosen is None or rejected is None:
        return None
    if chosen and rejected:
        return f"{content(chosen)} - rather than: {content(rejected)}"
    return f"liked: {content(chosen)}" if chosen else f"disliked: {content(rejected)}"


def shown(target: Any, data: Data) -> Any:
    """Both answers, or the one that there is and what people said of it."""
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
    """Rows by which of their answers is longer, in words; or by whether their one answer was liked."""
    import numpy as np

    if data.columns.liked:
        likes = sum(map(bool, target["chosen"].to_pylist()))
        return dict(zip(BY_LIKING, (likes, len(target["chosen"]) - likes), strict=True))
    one, other = (
        np.array([len(content(answer).split()) for answer in target[key].to_pylist()], dtype=int) for key in ROWS.target
    )
    places = np.select([one >= 2 * other, one > other, one == other, 2 * one > other], [0, 1, 2, 3], default=4)
    return dict(zip(BY_LENGTH, np.bincount(places, minlength=len(BY_LENGTH)).tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there rows in each split, and answers as much longer than each other as before?"""
    return causal_rows.checks(data, seen, these="answers")
