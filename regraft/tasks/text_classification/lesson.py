"""What a classifier is trained on: tokens and a label a row, and by which scores its checkpoints are chosen."""

from __future__ import annotations

import json
from typing import Any

from regraft import escaped
from regraft.exchange import Lesson
from regraft.tasks.text_classification.metrics import scored
from regraft.tasks.text_classification.recipe import Recipe


class Encoded:
    """Tokenised rows, in a given order: a dataset for torch."""

    def __init__(self, token_ids: list[list[int]], labels: list[int], order: list[int] | None = None) -> None:
        self._token_ids = token_ids
        self._labels = labels
        self._order = order if order is not None else list(range(len(labels)))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = self._order[position]
        return {"input_ids": self._token_ids[row], "labels": self._labels[row]}


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text` and `label`.
    """
    from transformers import DataCollatorWithPadding

    longest = recipe.training.max_length

    def encode(table: Any) -> list[list[int]]:
        return list(tokenizer(table["text"].to_pylist(), truncation=True, max_length=longest)["input_ids"])

    encoded, labels = encode(rows), rows["label"].to_pylist()
    return Lesson(
        lengths=[len(ids) for ids in encoded],
        train=lambda order: Encoded(encoded, labels, order),
        dev=Encoded(encode(dev), dev["label"].to_pylist()),
        # Not beyond max_length, which may be all the positions that the model has.
        collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=None if longest % 8 else 8),
        score=lambda prediction: scored(prediction.label_ids, prediction.predictions),
        files={"labels.json": json.dumps(list(recipe.data.labels), ensure_ascii=False)},
    )


def card(recipe: Recipe) -> str:
    """A section of the model card: the labels, in the order of the model's outputs."""
    return "## Labels\n\n" + "\n".join(f"{i}. {escaped.markdown(label)}" for i, label in enumerate(recipe.data.labels))
