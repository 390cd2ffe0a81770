"""What a model of entities is trained on: a tag for each token, and by which scores its checkpoints are chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from regraft import escaped, tally
from regraft.exchange import Lesson
from regraft.tasks.token_classification.metrics import METRICS, counted
from regraft.tasks.token_classification.recipe import Recipe, tags
from regraft.tasks.token_classification.rows import Span, spans

NONE = -100
"""The tag of tokens that stand for nothing: torch leaves them out of the loss."""


class Encoded:
    """Tokenised rows, in a given order: a dataset for torch."""

    def __init__(self, items: list[dict[str, list[int]]], order: list[int] | None = None) -> None:
        self._items = items
        self._order = order if order is not None else list(range(len(items)))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, list[int]]:
        return dict(self._items[self._order[position]])  # collators take labels out of what they are given


def tagged(parts: Sequence[tuple[int, int]], found: Sequence[Span]) -> list[str]:
    """The tag of each token: B- for the first that shares a character with an entity, I- for the others, else O.

    Args:
        parts: start and end of each, in order.
        found: entities in order, of which no two overlap.
    """
    made: list[str] = []
    waiting, begun = list(reversed(found)), False
    for start, end in parts:
        while waiting and waiting[-1][1] <= start:
            waiting.pop()
            begun = False
        if waiting and waiting[-1][0] < end:
            made.append(f"{'I' if begun else 'B'}-{waiting[-1][2]}")
            begun = True
        else:
            made.append("O")
    return made


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text` and `entities`.
    """
    from transformers import DataCollatorForTokenClassification

    from regraft.tasks.token_classification.program import entities, extents, tokens, written

    longest, outputs = recipe.training.max_length, tags(recipe)
    number = {tag: i for i, tag in enumerate(outputs)}

    def encode(table: Any) -> tuple[list[dict[str, list[int]]], list[list[tuple[int, int]]]]:
        """Items of a dataset, and start and end of the tokens of each that stand for something."""
        texts, items, places = table["text"].to_pylist(), [], []
        encodings = tokenizer(texts, truncation=True, max_length=longest).encodings if texts else []
        for text, known, encoding in zip(texts, table["entities"].to_pylist(), encodings, strict=True):
            parts = extents(text, encoding.offsets, encoding.special_tokens_mask)
            labels = [NONE] * len(encoding.ids)
            places.append([(start, end) for _, start, end in parts])
            for (position, _, _), tag in zip(parts, tagged(places[-1], spans(known)), strict=True):
                labels[position] = number[tag]
            items.append({"input_ids": encoding.ids, "labels": labels})
        return items, places

    train, _ = encode(rows)
    held, places = encode(dev)
    true = dev["entities"].to_pylist()

    def score(prediction: Any) -> dict[str, float]:
        """Of the entities that are given; those beyond max_length count as missed."""
        given = [
            written(entities(tokens(outputs, parts, logits[labels != NONE])))
            for parts, logits, labels in zip(places, prediction.predictions, prediction.label_ids, strict=True)
        ]
        of_dev = counted(recipe.data.labels, true, given)
        return {name: tally.score(of_dev, metric) for name, metric in METRICS.items()}

    return Lesson(
        lengths=[len(item["input_ids"]) for item in train],
        train=lambda order: Encoded(train, order),
        dev=Encoded(held),
        # Not beyond max_length, which may be all the positions that the model has.
        collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=None if longest % 8 else 8),
        score=score,
        files={"labels.json": json.dumps(list(recipe.data.labels), ensure_ascii=False)},
    )


def card(recipe: Recipe) -> str:
    """A section of the model card: the tags, in the order of the model's outputs."""
    listed = "\n".join(f"{i}. {escaped.markdown(tag)}" for i, tag in enumerate(tags(recipe)))
    return f"## Tags\n\nB- begins an entity, I- goes on with it.\n\n{listed}"
