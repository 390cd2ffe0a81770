"""What a step leaves in the store: the manifest of its result, and the word on it in each run that came to it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from regraft.digests import sha256

Refusal = Literal["gate", "approval", "contract", "rollout"]
"""What refused a run: a gate of promotion, that nobody has approved yet, the data's contract, or a server's trial."""


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True)
    sha256: str
    bytes: int


class Cost(BaseModel):
    """What a step used, of this machine's time; never part of an identity or a digest."""

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


class Manifest(BaseModel):
    """The JSON file that a step writes last.

    `outputs` are the files that downstream steps read and that a rerun reproduces to the byte; `views` are files for
    people (reports, Data Docs), which may hold times. `metrics` follow from the inputs, `measured` from the machine.
    """

    format: int = 1
    recipe: str
    step: str
    identity: str
    document: dict[str, Any]
    """All that the identity is the digest of."""
    attempt: str
    outputs: dict[str, FileRecord]
    views: dict[str, FileRecord] = {}
    metrics: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    refused: str | None = None
    """Why it was refused, as a sentence; a refusal is a complete result."""
    refused_by: Refusal | None = None
    cost: Cost | None = None
    run: str | None = None
    recipe_sha256: str | None = None
    """Of the recipe's file that it was made with, see `regraft.snapshot`; never part of an identity or a digest."""
    processor: str | None = None
    """The kind of processor that it was made on, see `regraft.processor`; never part of an identity or a digest."""
    created_at: AwareDatetime

    @model_validator(mode="after")
    def _written_before(self) -> Self:
        """Says what refused where the manifest was written before that was said."""
        if self.refused and self.refused_by is None:
            by: dict[str, Refusal] = {"validate": "contract", "deploy": "rollout"}
            waits = self.step == "promote" and self.refused.startswith("waiting for approval")
            self.refused_by = "approval" if waits else by.get(self.step, "gate")
        return self

    @model_validator(mode="after")
    def _of_their_types(self) -> Self:
        """What readers go by in `document`, `metrics` and `measured` is what they take it for."""
        _Document.model_validate(self.document)
        _Told.model_validate({**self.metrics, **self.measured})
        return self

    @property
    def inputs(self) -> dict[str, str]:
        return dict(self.document.get("inputs", {}))

    @property
    def foreseen(self) -> str | None:
        """What the step had foreseen of its cost beside what came, where it foresaw any."""
        told, said = _Told.model_validate(self.measured), list[str]()
        if told.memory_estimated_bytes and told.memory_peak_bytes:
            said.append(f"{told.memory_estimated_bytes / 2**30:.1f} of {told.memory_peak_bytes / 2**30:.1f} GiB")
        if told.steps_estimated_seconds and told.steps_seconds:
            said.append(f"{told.steps_estimated_seconds:.0f} of {told.steps_seconds:.0f} s for its steps")
        return ", ".join(said) or None

    @property
    def digest(self) -> str:
        """Digest of the result: what the step put out and whether it was refused."""
        return sha256({"outputs": {k: v.sha256 for k, v in self.outputs.items()}, "refused": self.refused})


class Pointer(BaseModel):
    """What became of a step in a run: where its result stands, or why there is none."""

    model_config = ConfigDict(frozen=True)

    state: Literal["begun", "done", "refused", "failed"]
    at: AwareDatetime | None = None
    identity: str | None = None
    cached: bool = False
    seconds: float | None = None
    recipe_sha256: str | None = None
    """Of the recipe's file that the step was started with; pointers written before have none."""
    refused: str | None = None
    refused_by: Refusal | None = None
    error: str | None = None
    next: str | None = None
    exit: int | None = None


class _Document(BaseModel):
    model_config = ConfigDict(strict=True)
    inputs: dict[str, str] = {}
    recipe: dict[str, Any] = {}


class _Told(BaseModel):
    """Facts of steps that others read: of finetune's, promote's and deploy's results."""

    model_config = ConfigDict(strict=True)
    chain: list[str] = []
    version: int | None = None
    reason: str | None = None
    approved_by: str | None = None
    warnings: list[str] = []
    precision: str | None = None
    memory_estimated_bytes: int | None = None
    memory_peak_bytes: int | None = None
    steps_estimated_seconds: float | None = None
    steps_seconds: float | None = None
