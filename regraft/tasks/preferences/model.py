"""A conversation and two answers in, or one, how probable a model and its base find each out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from regraft.causal import Causal, answering, assistant, prompts
from regraft.causal.prompts import Encoded
from regraft.tasks.preferences.recipe import Recipe


class Pair(NamedTuple):
    """A conversation with each of two answers, as tokens of which that answer's count."""

    chosen: Encoded
    rejected: Encoded


def encoded(tokenizer: Any, system: str | None, rows: Any, *, max_length: int, max_tokens: int) -> list[Pair]:
    """The pairs of frozen rows; an answer that is not there has no tokens."""

    def of(text: str, answer: str) -> Encoded:
        return side(tokenizer, system, text, answer, max_length=max_length, max_tokens=max_tokens)

    columns = (rows[name].to_pylist() for name in ("text", "chosen", "rejected"))
    return [Pair(of(text, one), of(text, other)) for text, one, other in zip(*columns, strict=True)]


def first(rows: Any) -> Any:
    """Of each frozen row the chosen answer, or the one that there is."""
    import pyarrow.compute as pc

    return pc.if_else(pc.equal(rows["chosen"], ""), rows["rejected"], rows["chosen"])


def side(tokenizer: Any, system: str | None, text: str, answer: str, *, max_length: int, max_tokens: int) -> Encoded:
    """A frozen conversation with an answer, whose tokens alone count; nothing of an answer that is not there."""
    if not answer:
        return Encoded([], [])
    row = assistant.uncut(tokenizer, system, (text, answer), max_length=max_length, max_tokens=max_tokens)
    return prompts.cut(_last(row), max_length)


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


def logged(recipe: Recipe, model: Causal, rows: Any) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs the model in MLflow, and the proof of what was logged; see `assistant.logged`."""
    return assistant.logged(recipe, model, rows.append_column("answer", first(rows)))
