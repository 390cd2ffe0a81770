"""What a recipe of preferences says beside what all recipes of language models do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from regraft import causal, parts
from regraft.fields import Share, Text

MetricName = Literal["accuracy", "likelihood"]


class Columns(parts.Columns):
    prompt: Text
    """Column that holds what was asked: a text, or messages as chat's."""
    chosen: Text | None = None
    """Column that holds the answer that people prefer: a text, or messages of which it is the last."""
    rejected: Text | None = None
    """Column that holds the other answer."""
    answer: Text | None = None
    """Column that holds an answer; with `liked`, for answers that are not in pairs (training.loss: kto)."""
    liked: Text | None = None
    """Column that says whether people liked it: true or false, or 1 or 0."""

    @model_validator(mode="after")
    def _one_form(self) -> Columns:
        named = {key for key in ("chosen", "rejected", "answer", "liked") if getattr(self, key)}
        if named not in ({"chosen", "rejected"}, {"answer", "liked"}):
            raise ValueError("columns name either chosen and rejected, or answer and liked, and not both forms")
        return self


class Data(parts.Data):
    columns: Columns


class Training(causal.Training):
    loss: Literal["dpo", "ipo", "kto"] = "dpo"
    """dpo makes chosen answers ever more probable than rejected ones; ipo up to a distance, 1 / (2 beta), for pairs of
    which nobody doubts which is better; kto learns from answers that were liked or disliked, each by itself."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How dear it is to leave the base model: the larger, the nearer to it the model stays."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-4


class Gates(parts.Gates):
    metric: MetricName = "accuracy"
    """The metric challenger and champion are compared by: `accuracy`, the share of pairs whose chosen answer gained
    more probability against the base model than the rejected one, half of it where both gained the same (of answers
    that are not in pairs, the share that gained some where they were liked, and lost some where not); or `likelihood`,
    the geometric mean of the probability of a token of chosen answers (1 / perplexity)."""
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it
    likelihood_loss: Share | None = 0.1
    """Largest share of the likelihood of a token of chosen answers that may be lost, against the base model and against
    the champion; all of the interval has to lie above it. A model can learn to tell answers apart and forget both."""


class Recipe(causal.Assistant):
    task: Literal["preferences"]
    data: Data
    training: Training = Training()
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _loss_of_its_rows(self) -> Recipe:
        if (self.training.loss == "kto") != (self.data.columns.liked is not None):
            raise ValueError(
                "training.loss kto is for data.columns {prompt, answer, liked}, and dpo and ipo for {prompt, chosen, "
                "rejected}"
            )
        return self
