"""Entities of texts, from what the model says of each token: the task's part of the program that Triton runs.

It stands alone, with numpy and the standard library, and is the one way in which answers are read, offline as served.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

OUTPUTS = ("entities", "tokens")
OFFSETS = True
"""Whether it reads where in the text each token is."""

Token = tuple[int, int, str, float, float]
"""Start and end in the text, the most probable tag, its probability, and by how much that exceeds the next best."""

DIGITS = 6
"""Of a probability."""


def answers(
    serving: dict[str, Any], texts: list[str], encodings: list[Any], logits: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.object_], ...]:
    """The outputs, a text of each a row, as JSON.

    entities   [{"start": 0, "end": 3, "label": "PER", "score": 0.98}, ...], in the order of the text
    tokens     what they are made of: `Token`s

    Args:
        serving: `labels`, the tags in the order of the model's outputs; `padding_side`.
        encodings: of the texts, by `tokenizers`, with offsets and without padding.
        logits: shape (texts, width, tags).
    """
    out = tuple(np.empty((len(texts), 1), dtype=np.object_) for _ in OUTPUTS)
    for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        length, width = len(encoding.ids), logits.shape[1]
        start = 0 if serving["padding_side"] == "right" else width - length
        parts = extents(text, encoding.offsets, encoding.special_tokens_mask)
        scores = logits[row, start : start + length][[position for position, _, _ in parts]]
        found = tokens(serving["labels"], [(start, end) for _, start, end in parts], scores)
        out[0][row, 0], out[1][row, 0] = written(entities(found)).encode(), written(found).encode()
    return out


def written(value: Any) -> str:
    """As JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def extents(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[tuple[int, int, int]]:
    """Position, start and end of each token that stands for something in the text.

    Special tokens stand for nothing, nor does white space, which some tokenizers count to the word that follows. What
    several tokens share, as the bytes of one character, is the first one's, so that no two overlap. Offsets are code
    points, the end is exclusive.
    """
    found, before = [], 0
    for position, ((start, end), skipped) in enumerate(zip(offsets, special, strict=True)):
        first = max(start, before)
        part = text[first:end]
        begin = first + len(part) - len(part.lstrip())
        if not skipped and part.strip():
            before = first + len(part.rstrip())
            found.append((position, begin, before))
    return found


def tokens(tags: Sequence[str], parts: Sequence[tuple[int, int]], logits: npt.NDArray[Any]) -> list[Token]:
    """What a model says of tokens.

    Args:
        tags: `O`, and `B-` and `I-` with each label.
        parts: start and end of each token.
        logits: shape (tokens, tags).
    """
    if not len(parts):
        return []
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = probabilities.argmax(axis=1)
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    numbers = np.round(np.stack([first, first - second], axis=1), DIGITS).tolist()
    return [
        (start, end, tags[tag], probability, margin)
        for (start, end), tag, (probability, margin) in zip(parts, best, numbers, strict=True)
    ]


def entities(found: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The entities that tokens make: B-x begins one, I-x goes on with it, and begins one after anything else.

    As conlleval and seqeval read tags. An entity's score is the mean of its tokens' probabilities, as that of a
    pipeline of transformers with aggregation_strategy "simple".
    """
    made: list[tuple[int, int, str, list[float]]] = []
    before = ""
    for start, end, tag, probability, _ in found:
        kind, _, label = tag.partition("-")
        if kind == "I" and label == before:
            first, _, _, scores = made.pop()
            made.append((first, end, label, [*scores, probability]))
        elif label:
            made.append((start, end, label, [probability]))
        before = label
    return [
        {"start": start, "end": end, "label": label, "score": round(sum(scores) / len(scores), DIGITS)}
        for start, end, label, scores in made
    ]
