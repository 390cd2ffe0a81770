"""How Triton serves a model of entities: text in, spans out; and how near to those offline they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from regraft import encoders
from regraft.encoders import Encoder
from regraft.tasks.token_classification.model import table
from regraft.tasks.token_classification.recipe import Recipe, tags

COMPARED = "a token's probability"
"""What `distance` is a difference of, in sentences."""


class Served(NamedTuple):
    """What Triton answers to texts: of each, its entities and its tokens in JSON, as `program.answers` writes them."""

    entities: list[str]
    tokens: list[str]


def tensors(recipe: Recipe) -> str:
    """Inputs and outputs, as config.pbtxt has them."""
    return encoders.tensors(dict.fromkeys(Served._fields, "TYPE_STRING dims: [ 1 ]"))


def build(recipe: Recipe, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json."""
    own = encoders.build(recipe, encoder, folder, program=Path(__file__).with_name("program.py"))
    return {**own, "labels": tags(recipe)}


def read(answer: Any) -> Served:
    """What an answer of tritonclient says."""
    return Served(*([said.decode() for said in answer.as_numpy(name).reshape(-1)] for name in Served._fields))


def joined(parts: Iterable[Served]) -> Served:
    """Answers of several requests as one."""
    return Served(*([said for some in column for said in some] for column in zip(*parts, strict=True)))


def numbers(served: Served) -> Any:
    """Answers as they are offline."""
    return table(served.entities, served.tokens)


def flaw(recipe: Recipe, served: Served, offline: Any) -> str | None:
    """What is wrong with answers, however near they are; None where nothing is."""
    from regraft.tasks.token_classification.program import entities

    known = frozenset(tags(recipe))
    if len(served.entities) != len(offline):
        return f"{len(served.entities)} answers to {len(offline)} texts"
    there = offline["tokens"].to_pylist()
    for row, (given, said, expected) in enumerate(zip(served.entities, served.tokens, there, strict=True), start=1):
        try:
            spans, tokens = json.loads(given), json.loads(said)
            places = [(start, end) for start, end, _, _, _ in tokens]
            unknown = {tag for _, _, tag, _, _ in tokens} - known
            finite = all(0 <= number <= 1 for token in tokens for number in token[3:])
        except (ValueError, TypeError):
            return f"the answer to text {row} is not of the form that it should have"
        if places != [(token["start"], token["end"]) for token in expected]:
            return f"text {row} has other tokens than offline"
        if unknown or not finite:
            return f"text {row} has tags or probabilities that are none"
        if spans != entities(tokens):
            return f"the entities of text {row} are not those that its tokens make"
    return None


def distance(one: Any, other: Any) -> float:
    """How far the probability of a token's tag differs at most; 1 where the tokens are others.

    Where two answers give a token other tags, one of the two tags differs by at least half the sum of the margins by
    which each answer prefers its own: that counts. So a near tie that falls the other way is a small difference, and
    one that both are sure of is a large one, whatever spans come of it.
    """
    import numpy as np
    import pyarrow.compute as pc

    ours, theirs = (answers["tokens"].combine_chunks().flatten() for answers in (one, other))
    if not all(np.array_equal(ours.field(name), theirs.field(name)) for name in ("start", "end")):
        return 1.0
    if not len(ours):
        return 0.0
    same = pc.equal(ours.field("tag"), theirs.field("tag")).to_numpy(zero_copy_only=False)
    first, second = (
        {name: side.field(name).to_numpy() for name in ("probability", "margin")} for side in (ours, theirs)
    )
    apart = np.abs(first["probability"] - second["probability"])
    flipped = (first["margin"] + second["margin"]) / 2
    return float(np.where(same, apart, np.maximum(apart, flipped)).max())


def said(recipe: Recipe, row: Mapping[str, Any], outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """An answer for people, of the outputs of Triton's JSON to a row: its entities, each with its words."""
    found = json.loads(outputs["entities"][0])
    return {"entities": [{"text": row["text"][one["start"] : one["end"]], **one} for one in found]}


def short(answer: Mapping[str, Any]) -> str:
    """The same in a few words."""
    found = (f"{one['text']} {one['label']} {one['score']:.0%}" for one in answer["entities"])
    return ", ".join(found) or "no entities"
