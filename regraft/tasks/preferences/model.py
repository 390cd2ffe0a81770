"""A conversation and two answers in, how probable a model and its base find each out."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

from regraft.causal import Causal, answering, prompts
from regraft.causal.assistant import logged as logged_assistant
from regraft.causal.assistant import uncut
from regraft.causal.prompts import Encoded

logged = functools.partial(logged_assistant, answer="chosen")


class Pair(NamedTuple):
    """A conversation with each of two answers, as tokens of which that answer's count."""

    chosen: Encoded
    rejected: Encoded


def encoded(tokenizer: Any, system: str | None, rows: Any, *, max_length: int, max_tokens: int) -> list[Pair]:
    """The pairs of frozen rows."""
    room = {"max_length": max_length, "max_tokens": max_tokens}

    def side(text: str, answer: str) -> Encoded:
        return prompts.cut(_last(uncut(tokenizer, system, (text, answer), **room)), max_length)

    columns = (rows[name].to_pylist() for name in ("text", "chosen", "rejected"))
    return [Pair(side(text, one), side(text, other)) for text, one, other in zip(*columns, strict=True)]


def _last(row: Encoded) -> Encoded:
    """A row, not cut yet, of which the last turn alone is trained on: the others are the same in both of a pair."""
    begins = (at for at in range(1, len(row.trained)) if row.trained[at] and not row.trained[at - 1])
    start = max(begins, default=0)
    return Encoded(row.ids, [at >= start and of for at, of in enumerate(row.trained)])


def likelihoods(model: Causal, pairs: list[Pair]) -> list[tuple[tuple[float, int], tuple[float, int]]]:
    """Of each pair the log-likelihood (natural) of its answers, and how many tokens they have."""
    found = answering.of_references(model, [side for pair in pairs for side in pair])
    return list(zip(found[::2], found[1::2], strict=True))


def answers(model: Causal, rows: Any) -> Any:
    """How probable a model finds the answers of each row.

    Columns: `chosen` and `rejected`, their log-likelihoods; `base_chosen` and `base_rejected`, the same under the
    model's base; `chosen_tokens` and `rejected_tokens`.
    """
    import pyarrow as pa

    pairs = encoded(model.tokenizer, model.told, rows, **model.room)
    ours = likelihoods(model, pairs)
    theirs = likelihoods(replace(model, adapted=False), pairs) if model.adapted else ours
    table: dict[str, Any] = {}
    for place, name in enumerate(Pair._fields):
        table[name] = pa.array([each[place][0] for each in ours], pa.float64())
        table[f"base_{name}"] = pa.array([each[place][0] for each in theirs], pa.float64())
        table[f"{name}_tokens"] = pa.array([each[place][1] for each in ours], pa.int64())
    return pa.table(table)
