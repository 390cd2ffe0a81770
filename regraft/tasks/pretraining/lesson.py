"""What is trained on: every token of the documents, packed into blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

from regraft.causal import learning
from regraft.causal.prompts import Encoded
from regraft.exchange import Lesson
from regraft.tasks.pretraining.model import at_once, blocks, documents, packed
from regraft.tasks.pretraining.recipe import Recipe

CHOSEN_BY = "likelihood"


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the column `text`.
    """
    length = recipe.training.max_length
    train = packed(tokenizer, rows["text"].to_pylist(), length)
    held = [block for ids in documents(tokenizer, dev["text"].to_pylist()) for block in blocks(ids, length)]
    return Lesson(
        lengths=[len(block.ids) for block in train],
        train=lambda order: learning.Rows(train, order),
        dev=learning.Rows(held, range(len(held))),
        collator=partial(learning.collated, tokenizer.pad_token_id),
        score=learning.scored,
        loss=learning.loss,
        reduced=learning.likelihoods,
        dev_batch=at_once(length),
        files={"trained_on.txt": shown(tokenizer, train, documents=rows.num_rows)},
    )


def shown(tokenizer: Any, train: list[Encoded], *, documents: int) -> str:
    """Three blocks as the model sees them, and what all of them are."""
    learned = sum(sum(block.trained) for block in train)
    text = (
        f"{documents:,} documents, {learned:,} tokens in {len(train):,} blocks, the last of {len(train[-1].ids):,}. "
        "Every token is trained on.\nThree blocks as the model sees them:\n"
    )
    return text + "".join(f"\n--------\n{tokenizer.decode(block.ids)}\n" for block in train[:3])


def card(recipe: Recipe) -> str:
    """A section of the model card: what it saw."""
    return (
        f"## What it saw\n\nDocuments one after another, each ended by the tokenizer's mark, in blocks of "
        f"{recipe.training.max_length} tokens: what is cut goes on in the next block, and every token was trained on. "
        "Attention within a block reaches over the ends of documents. `trained_on.txt` shows three blocks."
    )
