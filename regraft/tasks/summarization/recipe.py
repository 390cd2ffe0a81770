"""What a recipe of summarization says beside what all recipes of language models do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from regraft import causal, parts
from regraft.fields import Share, Text

MetricName = Literal["rouge1", "rouge2", "rougeL", "chrf", "likelihood"]

Language = Literal[
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "turkish",
    "words",
    "characters",
]


class Columns(parts.Columns):
    text: Text
    """Column that holds the document."""
    summary: Text
    """Column that holds its summary."""


class Data(parts.Data):
    columns: Columns
    language: Language = "english"
    """How summaries are compared by ROUGE: by words without their endings in that language; by whole `words` where it
    is none of these; by `characters` where words are not written apart, as in Chinese."""


class Gates(causal.Gates):
    metric: MetricName = "rougeL"
    """The metric challenger and champion are compared by: the mean F1 of ROUGE; chrF; or `likelihood`, the geometric
    mean of the probability of a token of the reference (1 / perplexity)."""
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it
    length_ratio: causal.Ratio | None = (0.5, 2.0)


class Recipe(causal.Recipe):
    task: Literal["summarization"]
    data: Data
    prompt: Annotated[str, Field(max_length=10_000)] = "Summarize this text.\n\n{text}"
    """What the model is asked, with {text} for the document. A document that is too long for training.max_length is cut
    at its end, in training as in answering."""
    gates: Gates = Gates()

    @field_validator("prompt")
    @classmethod
    def _asks_for_the_text(cls, value: str) -> str:
        if value.count("{text}") != 1:
            raise ValueError(f"{value!r} does not have {{text}} in one place, where the document is to stand")
        return value
