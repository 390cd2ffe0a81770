"""The rows of chat: a conversation up to the assistant's last turn, and that turn, both as JSON of one form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from regraft.causal import rows as causal_rows
from regraft.causal.conversations import KNOWN, NONE, REASONS, ROLE, content, defined, of_messages, of_pair
from regraft.exchange import Check, Read, Seen
from regraft.rows import Rows
from regraft.tasks.chat.recipe import Data

ROWS = Rows(
    read={"messages": "value", "prompt": "name", "completion": "name", "tools": "value"},
    target=("answer",),
    reasons=REASONS,
    missing={NONE: "messages"},
)


def rows(table: Any, data: Data) -> Read:
    """What the rows of a source are.

    Args:
        table: string arrays by key of `data.columns`: messages; or prompt, completion; tools, where there are such.
    """
    import numpy as np
    import pyarrow as pa

    if data.columns.messages:
        found = [of_messages(value) for value in table["messages"].to_pylist()]
    else:
        pairs = zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True)
        found = [of_pair(*pair) for pair in pairs]
    if data.columns.tools:
        found = [defined(row, tools) for row, tools in zip(found, table["tools"].to_pylist(), strict=True)]
    problems = np.array([row.problem or "" for row in found], dtype=object)
    return Read(
        text=pa.array([row.text for row in found], pa.string()),
        target={"answer": pa.array([row.answer for row in found], pa.string())},
        problems=[(reason, problems == reason) for reason in REASONS],
        shown=pa.array([None if row.answer is None else content(row.answer) for row in found], pa.string()),
        words=pa.array([row.said or row.text for row in found], pa.string()),
        unknown={ROLE: pa.array([row.role for row in found], pa.string())},
    )


def shown(target: Any, data: Data) -> Any:
    """What the last turns say."""
    import pyarrow as pa

    return pa.array([content(answer) for answer in target["answer"].to_pylist()], pa.string())


def known(data: Data) -> Mapping[str, Sequence[str]]:
    """No column has a fixed set of values."""
    return {}


def named(data: Data, values: Sequence[str]) -> str:
    """A clause about roles that there are not."""
    return f"{', '.join(map(repr, values))}; roles are {', '.join(KNOWN)}"


def counts(target: Any, data: Data) -> dict[str, int]:
    """Rows by the length of the last turn, in words; and those that call a tool."""
    import numpy as np

    limits = (10, 30, 100, 300)
    names = [*(f"up to {most} words" for most in limits), f"more than {limits[-1]} words", "calls a tool"]
    places = []
    for answer in target["answer"].to_pylist():
        turn = json.loads(answer)
        place = int(np.searchsorted(limits, len(turn["content"].split()), side="left"))
        places.append(len(names) - 1 if turn.get("tool_calls") else place)
    return dict(zip(names, np.bincount(np.array(places, dtype=int), minlength=len(names)).tolist(), strict=True))


def checks(data: Data, seen: Seen) -> Iterator[Check]:
    """Are there rows in each split, and answers as long as before?"""
    return causal_rows.checks(data, seen, these="answers")
