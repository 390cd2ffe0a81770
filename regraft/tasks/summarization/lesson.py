"""What a summarizer is trained on: the tokens of summaries, each behind its document."""

from __future__ import annotations

from typing import Any

from regraft import escaped
from regraft.causal import learning, prompts
from regraft.causal.asking import Asker
from regraft.errors import BadInput
from regraft.exchange import Lesson, Mask
from regraft.tasks.summarization.recipe import Recipe

CHOSEN_BY = "likelihood"


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text` and `summary`.

    Raises:
        BadInput: prompt and answer leave no room for a document, or too many rows have nothing to train on.
    """
    train, selected = (_encoded(recipe, tokenizer, table) for table in (rows, dev))
    return learning.lesson(tokenizer, train, selected, _right(rows))


def mask(recipe: Recipe, tokenizer: Any, rows: Any) -> Mask:
    """What of rows is trained on. Raises BadInput as `lesson`."""
    return prompts.mask(tokenizer, _encoded(recipe, tokenizer, rows), _right(rows))


def _right(rows: Any) -> list[list[list[str]]]:
    return [[[summary]] for summary in rows["summary"].to_pylist()]


def _encoded(recipe: Recipe, tokenizer: Any, rows: Any) -> list[prompts.Encoded]:
    longest = recipe.training.max_length
    asks = Asker(tokenizer, recipe.prompt, max_length=longest, max_tokens=recipe.generation.max_tokens)
    if asks.room < 8:
        raise BadInput(
            f"{longest} tokens leave {max(asks.room, 0)} for the document: the prompt and an answer of "
            f"{recipe.generation.max_tokens} take the others",
            where="training.max_length",
            next="raise training.max_length, or lower generation.max_tokens",
        )
    pairs = zip(rows["text"].to_pylist(), rows["summary"].to_pylist(), strict=True)
    return [prompts.cut(prompts.encoded(tokenizer, asks.answered(*pair)), longest) for pair in pairs]


def card(recipe: Recipe) -> str:
    """A section of the model card: how it is asked."""
    return (
        f"## How it is asked\n\n{escaped.code(recipe.prompt)}\n\n"
        f"Documents are cut so that prompt and answer have {recipe.training.max_length} tokens at most, of which an "
        f"answer may have {recipe.generation.max_tokens}. It answers greedily. `trained_on.txt` shows three rows as it "
        "saw them."
    )
