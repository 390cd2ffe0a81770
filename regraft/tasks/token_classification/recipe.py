"""What a recipe of token-classification says beside what all recipes do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from regraft import parts
from regraft.fields import Share, Text, distinct

MetricName = Literal["span_f1", "span_f1_macro", "precision", "recall"]


class Columns(parts.Columns):
    text: Text | None = None
    """Column that holds the text; with `entities`."""
    entities: Text | None = None
    """Column that holds the entities of the text: a list of {start, end, label}, nested or as JSON. Offsets count the
    characters (code points) of the text, and the end is exclusive. An empty list says that there are none; no value
    says that nobody has looked."""
    tokens: Text | None = None
    """Column that holds the text in words: a list of strings, nested or as JSON; with `tags`. The text is the words
    with a space between each two."""
    tags: Text | None = None
    """Column that holds a tag of each word, as a list: O, or B- or I- and a label (IOB2)."""

    @model_validator(mode="after")
    def _one_pair(self) -> Columns:
        named = {key for key in ("text", "entities", "tokens", "tags") if getattr(self, key)}
        if named not in ({"text", "entities"}, {"tokens", "tags"}):
            raise ValueError("columns name either text and entities, or tokens and tags, and not both pairs")
        return self


class LabelsCheck(parts.Part):
    min_share: Share = 0.01
    """Smallest share of entities that each label must have."""
    severity: parts.Severity = "critical"


class Contract(parts.Contract):
    labels: LabelsCheck = LabelsCheck()


class Data(parts.Data):
    columns: Columns
    contract: Contract = Contract()
    labels: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The labels of entities. The model's outputs are O, and B- and I- with each of them, in this order."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Data:
        distinct(self.labels, "labels", "label")
        return self


class Gates(parts.Gates):
    metric: Literal["span_f1", "span_f1_macro"] = "span_f1"
    """The metric challenger and champion are compared by: F1 of exact spans with their label, over all entities, or
    the mean over the labels."""
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it


class Recipe(parts.Recipe):
    task: Literal["token-classification"]
    data: Data
    gates: Gates = Gates()


def tags(recipe: Recipe) -> list[str]:
    """The model's outputs in their order: O, and of each label the tag that begins an entity and the one inside it."""
    return ["O", *(f"{kind}-{label}" for label in recipe.data.labels for kind in "BI")]
