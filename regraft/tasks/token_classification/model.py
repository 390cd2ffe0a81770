"""Text in, entities out: spans with a label, by a tag of each token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regraft import encoders
from regraft.encoders import Encoder
from regraft.errors import BadInput
from regraft.tasks.token_classification.recipe import Recipe, tags

HEAD: encoders.Head = "TokenClassification"

FIELDS = ("start", "end", "tag", "probability", "margin")
"""Of a `program.Token`."""


def for_training(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """The base model with a fresh adapter and head, and its tokenizer.

    Raises:
        BadInput: the tokenizer cannot say where in a text its tokens are.
    """
    model, tokenizer = encoders.for_training(recipe, folder, head=HEAD, outputs=tags(recipe))
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            "the tokenizer cannot say where in a text its tokens are: it has no tokenizer.json",
            where=recipe.base_model.source,
            next="choose a base model with a fast tokenizer",
        )
    return model, tokenizer


def load(recipe: Recipe, files: Path, folder: Path) -> Encoder:
    """The model of a finetune, from the files it published."""
    return encoders.load(recipe, files, folder, head=HEAD, outputs=tags(recipe))


def scored(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[list[int], list[Any], Any]]:
    """Of each batch row numbers, encodings, and raw scores of shape (rows, width, tags)."""
    options = {"truncation": True, "max_length": encoder.max_length}
    encodings = encoder.tokenizer(list(texts), **options).encodings if texts else []  # of none it raises
    for rows, logits in encoders.outputs_of(encoder, [encoding.ids for encoding in encodings]):
        yield rows, [encodings[row] for row in rows], logits


def answers(encoder: Encoder, rows: Any) -> Any:
    """Answers as `table` has them, made by the very code that makes them where they are served."""
    from regraft.tasks.token_classification import program

    texts = rows["text"].to_pylist()
    of_number = encoder.model.config.id2label
    serving = {
        "labels": [of_number[i] for i in range(len(of_number))],
        "padding_side": encoder.tokenizer.padding_side,
    }
    said: list[list[str]] = [[]] * len(texts)
    for part, encodings, logits in scored(encoder, texts):
        found = program.answers(serving, [texts[row] for row in part], encodings, logits)
        for row, *outputs in zip(part, *found, strict=True):
            said[row] = [output.item().decode() for output in outputs]
    return table([entities for entities, _ in said], [tokens for _, tokens in said])


def table(entities: Sequence[str], tokens: Sequence[str]) -> Any:
    """Answers as a table: `entities`, as JSON; `tokens`, what they are made of, a list of structs.

    Args:
        entities, tokens: the outputs of `program.answers`.
    """
    import pyarrow as pa

    types = (pa.int32(), pa.int32(), pa.string(), pa.float32(), pa.float32())
    token = pa.struct(list(zip(FIELDS, types, strict=True)))
    found = [[dict(zip(FIELDS, one, strict=True)) for one in json.loads(each)] for each in tokens]
    return pa.table({"entities": pa.array(entities, pa.string()), "tokens": pa.array(found, pa.list_(token))})
