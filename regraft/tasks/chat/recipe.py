"""What a recipe of chat says beside what all recipes of language models do."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from regraft import causal, parts
from regraft.fields import Location, Share, Text

MetricName = Literal["likelihood", "chrf", "exact"]


class Columns(parts.Columns):
    messages: Text | None = None
    """Column that holds conversations: lists of {role, content} as OpenAI's, or of {from, value} as ShareGPT's, nested
    or as JSON. Roles are system, user, assistant and tool; the last turn is the assistant's."""
    prompt: Text | None = None
    """Column that holds what a user asks; with `completion`, for conversations of two turns."""
    completion: Text | None = None
    """Column that holds the answer."""

    tools: Text | None = None
    """Column that holds what tools a conversation may call: a list of definitions as OpenAI's, nested or as JSON."""

    @model_validator(mode="after")
    def _one_form(self) -> Columns:
        named = {key for key in ("messages", "prompt", "completion") if getattr(self, key)}
        if named not in ({"messages"}, {"prompt", "completion"}):
            raise ValueError("columns name either messages, or prompt and completion, and not both forms")
        return self


class Data(parts.Data):
    columns: Columns


class Outputs(causal.Outputs):
    malformed: Share | None = 0.01
    """Are no JSON where the reference is, or no call of a tool that the reference calls."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_compiles)]


class Probe(parts.Part):
    """A fixed set of prompts, and what holds of a good answer to each."""

    source: Location
    """A file, a glob or a directory, as data.source."""
    prompt: Text = "prompt"
    """Column that holds what a user asks."""
    expects: Pattern | None = None
    """Python's regular expression that is found in a good answer, such as (?i)cannot|can't|won't."""
    forbids: Pattern | None = None
    """Regular expression that is found in no good answer, such as a part of what the system was told."""
    max_drop: Share = 0.05
    """Largest loss of the share of good answers, against the champion and against the base model; all of the interval
    has to lie above it."""

    @model_validator(mode="after")
    def _says_what_is_good(self) -> Probe:
        if self.expects is None and self.forbids is None:
            raise ValueError("a probe needs expects, forbids or both: what is found in good answers, and what is not")
        return self


class Gates(causal.Gates):
    metric: MetricName = "likelihood"
    """The metric challenger and champion are compared by: `likelihood`, the geometric mean of the probability of a
    token of the assistant's turns (1 / perplexity); chrF of the last turn; or the share of last turns that are the
    same."""
    floors: dict[MetricName, Share] = {}  # noqa: RUF012 - pydantic copies it
    outputs: Outputs = Outputs()
    probes: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")], Probe] = {}  # noqa: RUF012 - as above
    """Sets of prompts that are asked beside the holdout, by name: for what is to be refused, and what must not leak."""


class Recipe(causal.Assistant):
    task: Literal["chat"]
    data: Data
    gates: Gates = Gates()
