"""How good an assistant is: likelihood of its turns, chrF and equality of the last one, and whether its form holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from regraft.causal import scoring
from regraft.causal.conversations import called, content, opened
from regraft.causal.scoring import broken
from regraft.gate import Own
from regraft.tally import Metric, Tally
from regraft.tasks.chat.recipe import Recipe

__all__ = ["LIBRARIES", "METRICS", "broken", "comparable", "own", "tally"]

LIBRARIES = {"validate": ("transformers",), **dict.fromkeys(("evaluate", "promote", "deploy"), ("sacrebleu",))}

METRICS: Mapping[str, Metric] = {
    "likelihood": scoring.likelihood,
    "chrf": scoring.chrf,
    "exact": scoring.mean(0),
}


def references(rows: Any) -> list[str]:
    """What the last turns say."""
    return [content(answer) for answer in rows["answer"].to_pylist()]


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each row whether the answer is the reference, letters' case and white space aside; and `scoring.tally`."""
    import numpy as np

    right = references(rows)
    pairs = zip(answers["answer"].to_pylist(), right, strict=True)
    same = [_plain(said) == _plain(reference) for said, reference in pairs]
    return scoring.tally(np.array(same, dtype=np.int64)[:, None] * scoring.UNIT, right, answers)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def faults(rows: Any, answers: Any) -> dict[str, list[bool]]:
    """Of each kind of fault, which answers have it."""
    conversations = [opened(json.loads(text))["messages"] for text in rows["text"].to_pylist()]
    asked = ["\n".join(turn["content"] for turn in messages) for messages in conversations]
    pairs = zip(answers["answer"].to_pylist(), rows["answer"].to_pylist(), strict=True)
    return {**scoring.faults(asked, answers), "malformed": [_malformed(*pair) for pair in pairs]}


def _malformed(said: str, reference: str) -> bool:
    """Whether the reference has a form that an answer has not: JSON, or calls of tools that it names."""
    turn = json.loads(reference)
    if names := called(turn):
        return not all(name in said for name in names)
    return _is_json(turn["content"]) and not _is_json(said)


def _is_json(text: str) -> bool:
    """Whether a text is an object or a list in JSON."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """Perplexity of the references, and the gates of what answers must not be."""
    found = faults(rows, challenger)
    return Own(
        challenger={"perplexity": scoring.perplexity(challenger)},
        champion={"perplexity": None if champion is None else scoring.perplexity(champion)},
        gates=tuple(scoring.gates(recipe.gates, found, challenger, references(rows))),
    )


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Answers can be compared whatever the model was told before."""
    return None
