"""What a model learns of pairs: to find the chosen answer more probable than the rejected one, against its base model;
and of answers that are not in pairs, see `unpaired`.

DPO is that of Rafailov et al. (NeurIPS 2023), IPO that of Azar et al. (AISTATS 2024), both over the sums of
tokens, as in the papers. What the base model says of each pair is asked once, before training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from regraft.causal import Causal, assistant, learning, prompts
from regraft.causal.conversations import called, roles
from regraft.exchange import Lesson, Mask
from regraft.tasks.preferences import unpaired
from regraft.tasks.preferences.model import Pair, encoded, first, likelihoods
from regraft.tasks.preferences.recipe import Recipe, Training

CHOSEN_BY = "agreement"

Reference = Sequence[tuple[float, float]]
"""Of each pair the log-likelihoods of both answers under the base model."""


class Sides(NamedTuple):
    """What is learned of rows: of each two answers, of which the first was `liked`, or not.

    Of rows of one answer the second is one to another prompt.
    """

    pairs: list[Pair]
    liked: list[bool]


def _sides(recipe: Recipe, tokenizer: Any, rows: Any) -> Sides:
    told, room = recipe.system, assistant.space(recipe)
    if recipe.training.loss == "kto":
        return Sides(unpaired.encoded(tokenizer, told, rows, **room), unpaired.liked(rows))
    return Sides(encoded(tokenizer, told, rows, **room), [True] * rows.num_rows)


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text`, `chosen` and `rejected`.

    Raises:
        BadInput: an answer may be as long as all, or too many rows have nothing to train on.
    """
    train, judged = (_sides(recipe, tokenizer, table) for table in (rows, dev))
    pairs = train.pairs
    if recipe.training.loss == "kto":  # those have another row's answer in place of the one that is not there
        pairs = encoded(tokenizer, recipe.system, rows, **assistant.space(recipe))

    def knowing(model: Any) -> Lesson:
        room = assistant.space(recipe)
        base = Causal(model.eval(), tokenizer, room["max_length"], room["max_tokens"], adapted=False)
        known, of_dev = (_reference(base, sides.pairs) for sides in (train, judged))
        return replace(
            made,
            train=lambda order: Pairs(train, known, order),
            dev=Pairs(judged, of_dev, range(len(judged.pairs))),
            knowing=None,
        )

    made = Lesson(
        lengths=[max(len(side.ids) for side in pair) for pair in train.pairs],
        train=lambda order: Pairs(train, (), order),
        dev=Pairs(judged, (), range(len(judged.pairs))),
        collator=partial(collated, tokenizer.pad_token_id),
        score=partial(scored, recipe.training),
        loss=partial(loss, recipe.training, unpaired.weights(train.liked)),
        reduced=partial(reduced, recipe.training),
        dev_batch=learning.BATCH // 2,
        files={"trained_on.txt": _proven(tokenizer, pairs, rows)},
        knowing=knowing,
    )
    return made


def _reference(base: Causal, pairs: list[Pair]) -> Reference:
    return [(chosen, rejected) for (chosen, _), (rejected, _) in likelihoods(base, pairs)]


def mask(recipe: Recipe, tokenizer: Any, rows: Any) -> Mask:
    """What of rows is trained on, the chosen and the rejected answer of each in turn, where there are both. Raises
    BadInput as `lesson`, and where the tokenizer has no chat template."""
    assistant.templated(recipe, tokenizer)
    pairs = encoded(tokenizer, recipe.system, rows, **assistant.space(recipe))
    return replace(_looked(tokenizer, pairs, rows, Pair._fields), turns=roles(rows["text"], first(rows)))


def _looked(tokenizer: Any, pairs: Sequence[Pair], rows: Any, sides: Sequence[str]) -> Mask:
    """What of the answers of some sides is trained on.

    Args:
        pairs: of the rows, as `encoded`.
    """
    answers = list(zip(*(rows[side].to_pylist() for side in sides), strict=True))
    there = [
        (getattr(pair, side), json.loads(answer))
        for pair, of_row in zip(pairs, answers, strict=True)
        for side, answer in zip(sides, of_row, strict=True)
        if answer
    ]
    right = [[[turn["content"], *called(turn)]] for _, turn in there]
    return prompts.mask(tokenizer, [row for row, _ in there], right)


def _proven(tokenizer: Any, pairs: Sequence[Pair], rows: Any) -> str:
    """What `prompts.proven` says of chosen and of rejected answers."""
    looked = {side: _looked(tokenizer, pairs, rows, [side]) for side in Pair._fields}
    return "\n\n".join(f"{side.capitalize()} answers\n\n{prompts.proven(of)}" for side, of in looked.items())


class Pairs:
    """Pairs in a given order: a dataset for torch. Items have a batch's keys: the trainer lets no others through."""

    def __init__(self, sides: Sides, reference: Reference, order: Sequence[int]) -> None:
        self._pairs, self._liked = sides
        self._reference = reference
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        number = self._order[position]
        rows = learning.Rows(self._pairs[number], range(2))
        both = {key: (rows[0][key], rows[1][key]) for key in ("input_ids", "labels")}
        return {
            **both,
            "labels": {"tokens": both["labels"], "reference": self._reference[number], "liked": self._liked[number]},
        }


def collated(pad: int, batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of pairs: the first answers of all, then the second ones, as `learning.collated` has rows.

    Returns:
        its parts; `labels` are `tokens`, those of answers, shape (2 pairs, kept), `reference`, shape (pairs, 2), and
        `liked`, shape (pairs,).
    """
    import torch

    rows = [
        {"input_ids": pair["input_ids"][side], "labels": pair["labels"]["tokens"][side]}
        for side in range(2)
        for pair in batch
    ]
    made = learning.collated(pad, rows)
    reference = torch.tensor([pair["labels"]["reference"] for pair in batch], dtype=torch.float32)
    liked = torch.tensor([pair["labels"]["liked"] for pair in batch])
    return {**made, "labels": {"tokens": made["labels"], "reference": reference, "liked": liked}}


def rewards(found: Any, labels: Mapping[str, Any]) -> Any:
    """The implicit rewards of both answers of each pair, without beta: by how much they became more probable than under
    the base model, in nats; shape (pairs, 2).

    Args:
        found: log-likelihoods of the rows of a batch, shape (2 pairs,).
    """
    return found.unflatten(0, (2, -1)).T - labels["reference"]


def loss(
    training: Training, weigh: tuple[float, float], outputs: Any, labels: Any, num_items_in_batch: Any = None
) -> Any:
    """The mean over pairs of a batch, as its share of an optimiser's step.

    Args:
        weigh: what liked and disliked answers count, where each comes by itself.
    """
    import torch

    reward = rewards(learning.likelihoods(outputs.logits, labels["tokens"])[:, 0], labels)
    margin = reward[:, 0] - reward[:, 1]
    if training.loss == "kto":
        each = unpaired.loss(training, weigh, reward, labels["liked"])
    elif training.loss == "dpo":
        each = -torch.nn.functional.logsigmoid(training.beta * margin)
    else:
        each = (margin - 1 / (2 * training.beta)) ** 2
    return each.mean() / training.gradient_accumulation


def reduced(training: Training, logits: Any, labels: Any) -> Any:
    """Of each pair both rewards, the chosen answer's log-likelihood, and its tokens; shape (pairs, 4).

    An answer that is not in a pair is the chosen or the rejected one: what is not there has none of them.
    """
    import torch

    found = learning.likelihoods(logits, labels["tokens"])
    reward, chosen = rewards(found[:, 0], labels), found[: len(found) // 2]
    if training.loss == "kto":
        liked = labels["liked"][:, None]
        reward, chosen = reward[:, :1] * torch.cat([liked, ~liked], dim=1), chosen * liked
    return torch.cat([reward, chosen], dim=1)


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
    pairs = "Which of two answers people prefer"
    what, how = {
        "dpo": (pairs, "DPO (Rafailov et al., 2023)"),
        "ipo": (pairs, "IPO (Azar et al., 2024)"),
        "kto": ("Which answers people like", "KTO (Ethayarajh et al., 2024)"),
    }[recipe.training.loss]
    return (
        f"## What it learned\n\n{what}, by {how} with beta {recipe.training.beta:g} "
        f"against its base model.\n\n{assistant.card(recipe)}"
    )
