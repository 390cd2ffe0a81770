"""What a recipe of pretraining says beside what all recipes of language models do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from regraft import causal, parts
from regraft.fields import Share, Text

MetricName = Literal["byte_likelihood", "likelihood"]


class Columns(parts.Columns):
    text: Text
    """Column that holds the document."""


class Data(parts.Data):
    columns: Columns


class Training(causal.Training):
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] = 512
    """Tokens of a block. Documents follow each other and are cut into blocks, so that no token is left out; in
    evaluation each document is cut into blocks of its own."""


class Gates(parts.Gates):
    metric: MetricName = "byte_likelihood"
    """The metric challenger and champion are compared by: `byte_likelihood`, the geometric mean of the probability of
    a byte of a document (2 to the power of minus the bits per byte), which is comparable whatever the tokenizer; or
    `likelihood`, that of a token (1 / perplexity)."""
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it
    forgetting: Annotated[parts.ForgettingGate | None, Field(validate_default=True)] = None
    """What may not be forgotten: obligatory here. Documents of what the base model is good at and `data` is not about,
    and the largest loss on them against the champion, or against the base model where there is no champion."""

    @field_validator("forgetting")
    @classmethod
    def _is_watched(cls, value: parts.ForgettingGate | None) -> parts.ForgettingGate | None:
        if value is None:
            raise ValueError(
                "missing: a model that goes on learning forgets, so write forgetting: {anchor: LOCATION, "
                "max_drop: 0.02} under gates, LOCATION being documents of what it must not forget"
            )
        return value


class Recipe(causal.Tuned):
    task: Literal["pretraining"]
    data: Data
    training: Training = Training()
    gates: Annotated[Gates, Field(default_factory=dict, validate_default=True)]
