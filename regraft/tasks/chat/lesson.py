"""What an assistant is trained on: the tokens of its turns, each behind what came before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regraft.causal import learning, prompts
from regraft.causal.assistant import space, taught, templated
from regraft.causal.conversations import pieces, roles
from regraft.exchange import Lesson, Mask
from regraft.tasks.chat.recipe import Recipe

CHOSEN_BY = "likelihood"


def lesson(recipe: Recipe, tokenizer: Any, rows: Any, dev: Any) -> Lesson:
    """The lesson of a recipe.

    Args:
        rows, dev: tables with the columns `text` and `answer`.

    Raises:
        BadInput: an answer may be as long as all, or too many rows have nothing to train on.
    """
    return learning.lesson(tokenizer, _encoded(recipe, tokenizer, rows), _encoded(recipe, tokenizer, dev), pieces(rows))


def mask(recipe: Recipe, tokenizer: Any, rows: Any) -> Mask:
    """What of rows is trained on. Raises BadInput as `lesson`, and where the tokenizer has no chat template."""
    templated(recipe, tokenizer)
    found = prompts.mask(tokenizer, _encoded(recipe, tokenizer, rows), pieces(rows))
    return replace(found, turns=roles(rows["text"], rows["answer"]))


def _encoded(recipe: Recipe, tokenizer: Any, rows: Any) -> list[prompts.Encoded]:
    room = space(recipe)
    pairs = zip(rows["text"].to_pylist(), rows["answer"].to_pylist(), strict=True)
    return [taught(tokenizer, recipe.system, pair, **room) for pair in pairs]
