"""What a model learns of pairs: to find the chosen answer more probable than the rejected one, against its base model.

DPO is that of Rafailov et al. (NeurIPS 2023), IPO that of Azar et al. (AISTATS 2024), both over the sums of
tokens, as in the papers. What the base model says of each pair is asked once, before training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from regraft.causal import Causal, assistant, learning, prompts
from regraft.causal.conversations import called, roles
from regraft.exchange import Lesson, Mask
from regraft.tasks.preferences.model import Pair, encoded, likelihoods
from regraft.tasks.preferences.recipe import Recipe, Training

CHOSEN_BY = "agreement"

Reference = Sequence[tuple[float, float]]
"""Of each pair the log-likelihoods of both answers under the base model."""


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text`, `chosen` and `rejected`.

    Raises:
        BadInput: an answer may be as long as all, or too many rows have nothing to train on.
    """
    room = assistant.space(recipe)
    train, judged = (encoded(tokenizer, recipe.system, table, **room) for table in (rows, dev))

    def knowing(model: Any) -> Lesson:
        base = Causal(model.eval(), tokenizer, room["max_length"], room["max_tokens"], adapted=False)
        known, of_dev = (_reference(base, pairs) for pairs in (train, judged))
        return replace(
            made,
            train=lambda order: Pairs(train, known, order),
            dev=Pairs(judged, of_dev, range(len(judged))),
            knowing=None,
        )

    made = Lesson(
        lengths=[max(len(side.ids) for side in pair) for pair in train],
        train=lambda order: Pairs(train, (), order),
        dev=Pairs(judged, (), range(len(judged))),
        collator=partial(collated, tokenizer.pad_token_id),
        score=partial(scored, recipe.training),
        loss=partial(loss, recipe.training),
        reduced=reduced,
        dev_batch=learning.BATCH // 2,
        files={"trained_on.txt": _proven(tokenizer, train, rows)},
        knowing=knowing,
    )
    return made


def _reference(base: Causal, pairs: list[Pair]) -> Reference:
    return [(chosen, rejected) for (chosen, _), (rejected, _) in likelihoods(base, pairs)]


def mask(recipe: Recipe, tokenizer: Any, rows: Any) -> Mask:
    """What of rows is trained on, the chosen and the rejected answer of each in turn. Raises BadInput as `lesson`, and
    where the tokenizer has no chat template."""
    assistant.templated(recipe, tokenizer)
    pairs = encoded(tokenizer, recipe.system, rows, **assistant.space(recipe))
    right = zip(*(_right(rows, name) for name in Pair._fields), strict=True)
    sides, taught = ([side for both in of for side in both] for of in (pairs, right))
    return replace(prompts.mask(tokenizer, sides, taught), turns=roles(rows["text"], rows["chosen"]))


def _right(rows: Any, name: str) -> list[list[list[str]]]:
    return [[[turn["content"], *called(turn)]] for turn in map(json.loads, rows[name].to_pylist())]


def _proven(tokenizer: Any, pairs: list[Pair], rows: Any) -> str:
    """What `prompts.proven` says of chosen and of rejected answers."""
    said = []
    for place, name in enumerate(Pair._fields):
        looked = prompts.mask(tokenizer, [pair[place] for pair in pairs], _right(rows, name))
        said.append(f"{name.capitalize()} answers\n\n{prompts.proven(looked)}")
    return "\n\n".join(said)


class Pairs:
    """Pairs in a given order: a dataset for torch. Items have a batch's keys: the trainer lets no others through."""

    def __init__(self, pairs: Sequence[Pair], reference: Reference, order: Sequence[int]) -> None:
        self._pairs = pairs
        self._reference = reference
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        number = self._order[position]
        rows = learning.Rows(self._pairs[number], range(2))
        both = {key: (rows[0][key], rows[1][key]) for key in ("input_ids", "labels")}
        return {**both, "labels": {"tokens": both["labels"], "reference": self._reference[number]}}


def collated(pad: int, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of pairs: all chosen answers, then all rejected ones, as `learning.collated` has rows.

    Returns:
        its parts; `labels` are `tokens`, those of answers, shape (2 pairs, kept), and `reference`, shape (pairs, 2).
    """
    import torch

    rows = [
        {"input_ids": pair["input_ids"][side], "labels": pair["labels"]["tokens"][side]}
        for side in range(2)
        for pair in batch
    ]
    made = learning.collated(pad, rows)
    reference = torch.tensor([pair["labels"]["reference"] for pair in batch], dtype=torch.float32)
    return {**made, "labels": {"tokens": made["labels"], "reference": reference}}


def rewards(found: Any, labels: Mapping[str, Any]) -> Any:
    """The implicit rewards of both answers of each pair, without beta: by how much they became more probable than under
    the base model, in nats; shape (pairs, 2).

    Args:
        found: log-likelihoods of the rows of a batch, shape (2 pairs,).
    """
    return found.unflatten(0, (2, -1)).T - labels["reference"]


def loss(training: Training, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The mean over pairs of a batch, as its share of an optimiser's step."""
    import torch

    reward = rewards(learning.likelihoods(outputs.logits, labels["tokens"])[:, 0], labels)
    margin = reward[:, 0] - reward[:, 1]
    if training.loss == "dpo":
        each = -torch.nn.functional.logsigmoid(training.beta * margin)
    else:
        each = (margin - 1 / (2 * training.beta)) ** 2
    return each.mean() / training.gradient_accumulation


def reduced(logits: Any, labels: Any) -> Any:
    """Of each pair both rewards, the chosen answer's log-likelihood, and its tokens; shape (pairs, 4)."""
    import torch

    found = learning.likelihoods(logits, labels["tokens"])
    return torch.cat([rewards(found[:, 0], labels), found[: len(found) // 2]], dim=1)


def scored(training: Training, prediction: Any) -> dict[str, float]:
    """The score of what the trainer predicted for pairs, as `reduced`.

    `agreement` is the geometric mean of the probability that the chosen answer is the better one, as the model has it
    (Bradley and Terry): one half for the base model. It still grows where all pairs are right.
    """
    import numpy as np

    chosen, rejected, total, count = prediction.predictions.astype(float).T
    margin = chosen - rejected
    return {
        "accuracy": float(np.mean((np.sign(margin) + 1) / 2)),
        "agreement": float(np.exp(-np.mean(np.logaddexp(0, -training.beta * margin)))),
        "likelihood": math.exp(total.sum() / count.sum()) if count.sum() else 0.0,
    }


def card(recipe: Recipe) -> str:
    """A section of the model card: what it learned, and how it is asked."""
    how = {"dpo": "DPO (Rafailov et al., 2023)", "ipo": "IPO (Azar et al., 2024)"}[recipe.training.loss]
    return (
        f"## What it learned\n\nWhich of two answers people prefer, by {how} with beta {recipe.training.beta:g} "
        f"against its base model.\n\n{assistant.card(recipe)}"
    )
