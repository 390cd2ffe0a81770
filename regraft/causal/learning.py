"""What the one training loop needs of a language model: batches, a loss over what is learned, a score.

What is learned goes through the head, and nothing else: on a CPU that is most of the cost. Rows of a batch are filled
up on the left, so that what all of them are trained on stands together at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from regraft.causal.prompts import Encoded, Turns, mask, proven
from regraft.exchange import Lesson

LEFT_OUT = -100
"""The label of a token that is not trained on; what torch leaves out of a loss."""
BATCH = 16
"""Rows that are scored, or answered, at once."""


def lesson(tokenizer: Any, train: Sequence[Encoded], dev: Sequence[Encoded], right: Sequence[Turns]) -> Lesson:
    """The lesson of conversations.

    Args:
        right: what each row to train on is to teach, see `prompts.mask`.

    Raises:
        BadInput: as `prompts.proven`.
    """
    return Lesson(
        lengths=[len(row.ids) for row in train],
        train=lambda order: Rows(train, order),
        dev=Rows(dev, range(len(dev))),
        collator=partial(collated, tokenizer.pad_token_id),
        score=scored,
        loss=loss,
        reduced=likelihoods,
        dev_batch=BATCH,
        files={"trained_on.txt": proven(mask(tokenizer, train, right))},
    )


class Rows:
    """Conversations in a given order: a dataset for torch."""

    def __init__(self, rows: Sequence[Encoded], order: Sequence[int]) -> None:
        self._rows = rows
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        ids, trained = self._rows[self._order[position]]
        return {
            "input_ids": ids,
            "labels": [i if learned else LEFT_OUT for i, learned in zip(ids, trained, strict=True)],
        }


def collated(pad: int, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of rows, filled up on the left; and what its head is computed for.

    Args:
        pad: id of the token that fills up.

    Returns:
        input_ids, attention_mask and position_ids, shape (rows, width); `logits_to_keep`, the positions, shape (kept,),
        behind which some row has a token that is trained on; `labels`, those tokens, shape (rows, kept), else LEFT_OUT.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def filled(rows: Iterable[Sequence[int]], value: int) -> Any:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")

    mask = filled(([1] * len(row["input_ids"]) for row in batch), 0)
    following = filled((row["labels"] for row in batch), LEFT_OUT)[:, 1:]
    kept = (following != LEFT_OUT).any(dim=0).nonzero().flatten()
    return {
        "input_ids": filled((row["input_ids"] for row in batch), pad),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "logits_to_keep": kept,
        "labels": following[:, kept],
    }


def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Cross entropy of the trained tokens, their mean over all of an optimiser's step."""
    import torch

    total = torch.nn.functional.cross_entropy(
        outputs.logits.float().flatten(0, 1), labels.flatten(), ignore_index=LEFT_OUT, reduction="sum"
    )
    return total / ((labels != LEFT_OUT).sum() if num_items_in_batch is None else num_items_in_batch)


def likelihoods(logits: Any, labels: Any) -> Any:
    """Of each row, the log-likelihood (natural) of its trained tokens, and how many they are; shape (rows, 2)."""
    import torch

    chosen = labels.clamp(min=0)[..., None]
    each = logits.float().log_softmax(dim=-1).gather(-1, chosen)[..., 0]
    counted = labels != LEFT_OUT
    return torch.stack([(each * counted).sum(dim=1), counted.sum(dim=1).float()], dim=1)


def scored(prediction: Any) -> dict[str, float]:
    """The score of what the trainer predicted for rows: what `reduced` by `likelihoods`, shape (rows, 2)."""
    total, count = prediction.predictions.sum(axis=0)
    return {"likelihood": math.exp(total / count) if count else 0.0}
