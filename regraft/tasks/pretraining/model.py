"""A document in, the probability of its tokens out: how documents become blocks, and what a model says to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regraft import causal
from regraft.causal import Causal, answering, asking
from regraft.causal.prompts import Encoded
from regraft.tasks.pretraining.recipe import Recipe

AT_ONCE = 2_048
"""Tokens that are scored at once: each goes through the head, and has a number for each token of the vocabulary."""


def load(recipe: Recipe, files: Path, folder: Path) -> Causal:
    """The model of a finetune, from the files it published."""
    return Causal(*causal.adapted(recipe, files, folder), recipe.training.max_length, max_tokens=0)


def documents(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """Tokens of each document, from the mark that begins one to the mark that ends one.

    A tokenizer that puts no mark in front of a text, as most do, has the end of the document before stand there.
    """
    end = tokenizer.eos_token_id
    begin = [*tokenizer("")["input_ids"], end][0]
    for text in texts:
        plain = asking.plain(tokenizer, text)
        yield [begin, *tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"], end]


def blocks(ids: Sequence[int], length: int) -> list[Encoded]:
    """Tokens in blocks of a length, the last one shorter; all but the first token are learned, each of them once.

    So a block begins with the token that the one before ended with: there it was learned, here others follow it.
    """
    cuts = [list(ids[at : at + length]) for at in range(0, len(ids) - 1, length - 1)]
    return [Encoded(cut, [False] + [True] * (len(cut) - 1)) for cut in cuts]


def packed(tokenizer: Any, texts: Sequence[str], length: int) -> list[Encoded]:
    """Documents one after another, in blocks: what ends one also begins the next, where that is the same mark."""
    ids = list[int]()
    for document in documents(tokenizer, texts):
        ids += document[1:] if ids[-1:] == document[:1] else document
    return blocks(ids, length)


def at_once(length: int) -> int:
    """Blocks of a length that are scored at once."""
    return max(1, AT_ONCE // length)


def answers(model: Causal, rows: Any) -> Any:
    """A table of how probable a model finds each document, all of its tokens and its end: `log_likelihood` (natural),
    and `reference_tokens`, how many they are."""
    import numpy as np
    import pyarrow as pa

    cut = [blocks(ids, model.max_length) for ids in documents(model.tokenizer, rows["text"].to_pylist())]
    size = at_once(model.max_length)
    found = answering.of_references(model, [block for of_one in cut for block in of_one], size=size)
    owner = np.repeat(np.arange(len(cut)), [len(of_one) for of_one in cut])
    likelihood, tokens = (np.bincount(owner, [pair[i] for pair in found], minlength=len(cut)) for i in (0, 1))
    return pa.table({"log_likelihood": likelihood, "reference_tokens": tokens.astype(np.int64)})
