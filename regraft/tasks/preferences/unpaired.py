"""Answers that people liked or disliked, each by itself: KTO (Ethayarajh et al., ICML 2024), over the sums of tokens.

How far the model has left its base anyway is told from answers to other prompts, as in the paper. Each row has the same
other answer throughout, so that the base model is asked once, before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regraft.causal.prompts import Encoded
from regraft.tasks.preferences.model import Pair, first, side
from regraft.tasks.preferences.recipe import Training


def liked(rows: Any) -> list[bool]:
    """Of each frozen row whether its answer was liked."""
    return [bool(answer) for answer in rows["chosen"].to_pylist()]


def encoded(tokenizer: Any, system: str | None, rows: Any, *, max_length: int, max_tokens: int) -> list[Pair]:
    """Of each frozen row its prompt with its answer, and with one to another prompt."""
    texts = rows["text"].to_pylist()
    answers = first(rows).to_pylist()

    def with_prompt(text: str, answer: str) -> Encoded:
        return side(tokenizer, system, text, answer, max_length=max_length, max_tokens=max_tokens)

    triples = zip(texts, answers, others(texts), strict=True)
    return [Pair(with_prompt(text, answer), with_prompt(text, answers[other])) for text, answer, other in triples]


def others(texts: Sequence[str]) -> list[int]:
    """Of each row the one before those with the same prompt, which follow each other; of the first the last."""
    found, before = list[int](), -1
    for row, text in enumerate(texts):
        if row and text != texts[row - 1]:
            before = row - 1
        found.append(before % len(texts))
    return found


def weights(of: Sequence[bool]) -> tuple[float, float]:
    """What a liked and a disliked answer count: the rarer kind so much more that both count the same in all."""
    likes = sum(of)
    dislikes = len(of) - likes
    if not likes or not dislikes:
        return 1.0, 1.0
    return max(dislikes / likes, 1.0), max(likes / dislikes, 1.0)


def loss(training: Training, weigh: tuple[float, float], reward: Any, likes: Any) -> Any:
    """Of each row, shape (rows,).

    Args:
        weigh: see `weights`.
        reward: of a row's answer and of the one to another prompt, in nats, shape (rows, 2).
        likes: whether it was liked, shape (rows,).
    """
    import torch

    left = reward[:, 1].mean().clamp(min=0).detach()
    gain = torch.where(likes, reward[:, 0] - left, left - reward[:, 0])
    return torch.where(likes, *weigh) * (1 - torch.sigmoid(training.beta * gain))
