"""What a recipe of this task says beside what all recipes say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from regraft import parts
from regraft.fields import Share, Text, distinct

MetricName = Literal["accuracy", "f1_macro"]


class Columns(parts.Columns):
    text: Text
    """Column that holds the text."""
    label: Text
    """Column that holds the label."""


class LabelsCheck(parts.Part):
    min_share: Share = 0.01
    """Smallest share of rows that each label must have."""
    severity: parts.Severity = "critical"


class Contract(parts.Contract):
    labels: LabelsCheck = LabelsCheck()


class Data(parts.Data):
    columns: Columns
    contract: Contract = Contract()
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    """The label set, in the order of the model's outputs."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Data:
        distinct(self.labels, "labels", "label")
        return self


class Gates(parts.Gates):
    metric: MetricName = "f1_macro"
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it
    max_calibration_error: Share | None = None
    """Ceiling of the expected calibration error (15 equal-width bins)."""


class Recipe(parts.Recipe):
    task: Literal["text-classification"]
    data: Data
    gates: Gates = Gates()
