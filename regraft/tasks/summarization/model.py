"""A document in, a summary out: how a document is asked about, and what a model answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regraft import causal
from regraft.causal import Causal, answering, prompts
from regraft.causal.prompts import Encoded
from regraft.tasks.summarization.recipe import Recipe


def load(recipe: Recipe, files: Path, folder: Path) -> Causal:
    """The model of a finetune, from the files it published."""
    return causal.load(recipe, files, folder, told=recipe.prompt)


class Asker:
    """Makes conversations of documents: what is asked fits, with room for the answer."""

    def __init__(self, tokenizer: Any, prompt: str, *, max_length: int, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        around = prompts.tokens(tokenizer, prompts.prompt(tokenizer, self._asked("")))
        self.room = max_length - max_tokens - len(around) - 2
        """Tokens of a document at most; two more may come of how it joins what is around it."""

    def _asked(self, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._prompt.replace("{text}", text)}]

    def asked(self, text: str) -> list[dict[str, str]]:
        """The conversation in which a document's summary comes next."""
        return self._asked(prompts.beginning(self._tokenizer, prompts.plain(self._tokenizer, text), self.room))

    def answered(self, text: str, summary: str) -> list[dict[str, str]]:
        """The same with the summary."""
        return [*self.asked(text), {"role": "assistant", "content": prompts.plain(self._tokenizer, summary)}]


def asker(model: Causal) -> Asker:
    """What asks a model."""
    return Asker(model.tokenizer, str(model.told), max_length=model.max_length, max_tokens=model.max_tokens)


def asks(model: Causal, texts: Iterable[str]) -> list[list[int]]:
    """Tokens of documents, as a model is asked."""
    tokenizer, ask = model.tokenizer, asker(model)
    return [prompts.tokens(tokenizer, prompts.prompt(tokenizer, ask.asked(text))) for text in texts]


def right(model: Causal, rows: Any) -> list[Encoded]:
    """Tokens of documents with the summaries that are right."""
    ask, pairs = asker(model), zip(rows["text"].to_pylist(), rows["summary"].to_pylist(), strict=True)
    return [prompts.encoded(model.tokenizer, ask.answered(*pair)) for pair in pairs]


def answers(model: Causal, rows: Any) -> Any:
    """What a model says to each row, as `answering.table`."""
    return answering.table(model, asks(model, rows["text"].to_pylist()), right(model, rows))
