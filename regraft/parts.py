"""The parts of a recipe: what each key may say, and its default."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from regraft import cron
from regraft.fields import (
    AssetLocation,
    Count,
    Cpu,
    Cron,
    Duration,
    Epochs,
    Gpus,
    Location,
    Memory,
    Milliseconds,
    Seed,
    Share,
    Text,
    Zone,
    distinct,
)

StepName = Literal["validate", "finetune", "evaluate", "promote", "deploy"]
Severity = Literal["critical", "warning"]


class Part(BaseModel):
    """A part of a recipe: unknown keys and infinite numbers are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: Any) -> Any:
        """pydantic takes true for 1, and YAML takes yes and on for true."""
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is neither a number nor a text here")
        return value


class Columns(Part):
    text: Text
    """Column that holds the text."""
    label: Text
    """Column that holds the label."""
    time: Text | None = None
    """Column that says when a row arrived; needed for a window and for freshness."""
    slices: tuple[Text, ...] = ()
    """Columns whose values cut the holdout into slices, each of which has its own gate."""

    @model_validator(mode="after")
    def _differ(self) -> Columns:
        distinct([name for name in (self.text, self.label, self.time) if name], "text, label and time", "column")
        distinct(self.slices, "slices", "column")
        return self


class Splits(Part):
    dev: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of rows for early stopping."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of rows that challenger and champion are scored on; never trained on."""

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> Splits:
        if self.dev + self.holdout >= 1:
            raise ValueError(f"dev {self.dev} + holdout {self.holdout} leave no rows to train on")
        return self


class RowsCheck(Part):
    min: Count = 100
    max_shrink: Share = 0.5
    """Largest share of rows that may be missing against the champion's training data (a warning)."""
    severity: Severity = "critical"


class ShareCheck(Part):
    max: Share
    """Largest share of rows that may have the problem."""
    severity: Severity = "warning"


class LabelsCheck(Part):
    min_share: Share = 0.01
    """Smallest share of rows that each label must have."""
    severity: Severity = "critical"


class LengthCheck(Part):
    min: Annotated[int, Field(ge=0, le=10**9)] = 1
    max: Count
    severity: Severity = "warning"

    @model_validator(mode="after")
    def _some_length_is_right(self) -> LengthCheck:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}: no text has such a length")
        return self


class FreshnessCheck(Part):
    max_age: Duration
    """How old the newest row may be at the end of the window."""
    severity: Severity = "critical"


class DriftCheck(Part):
    max: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Largest Jensen-Shannon distance from the champion's training data, of labels and of words."""
    severity: Severity = "warning"


class Contract(Part):
    """What the data must satisfy. Critical refuses the run, warning is reported."""

    rows: RowsCheck = RowsCheck()
    labels: LabelsCheck = LabelsCheck()
    characters: LengthCheck = LengthCheck(max=10_000)
    """Text length in characters; rows outside it are quarantined, and a larger share than data.quarantine fails."""
    tokens: LengthCheck | None = None
    """Text length in tokens of the base model's tokenizer.json, counted on a sample of 2000 rows; a larger share
    outside it than data.quarantine fails."""
    nulls: ShareCheck = ShareCheck(max=0.01, severity="critical")
    duplicates: ShareCheck = ShareCheck(max=0.1)
    near_duplicates: ShareCheck = ShareCheck(max=0.2)
    encoding: ShareCheck = ShareCheck(max=0.01)
    pii: ShareCheck = ShareCheck(max=0.01)
    """Rows that hold what looks like personal data: an e-mail address, a number of a card, account, phone or person, an
    IP address. No row has a time limit: the expressions are validate's own, and tests show each linear in the text."""
    freshness: FreshnessCheck | None = None
    drift: DriftCheck = DriftCheck()


class Data(Part):
    source: Location
    """fsspec URL, path or package://NAME/PATH of Parquet, CSV or JSON Lines: a file, a glob or a directory.
    ${VARIABLE} and ${VARIABLE:-default} are taken from the environment."""
    quoting: Literal["auto", "minimal", "none"] = "auto"
    """Whether values of CSV and TSV may stand in quotes: minimal, where they have to; none, a quote is a character like
    any other. auto is minimal for .csv and none for .tsv."""
    columns: Columns
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    """The label set, in the order of the model's outputs."""
    window: Duration | None = None
    """How far back from the run's time rows count; all rows when left out."""
    splits: Splits = Splits()
    quarantine: Share = 0.01
    """Largest share of bad rows that may be set aside; more refuse the run."""
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        distinct(self.labels, "labels", "label")
        if self.window and not self.columns.time:
            raise ValueError("window needs columns.time, the column that says when a row arrived")
        if self.contract.freshness and not self.columns.time:
            raise ValueError("contract.freshness needs columns.time, the column that says when a row arrived")
        return self


class BaseModelSource(Part):
    source: Location
    """A path, an fsspec URL, package://NAME/PATH of an installed package, or hf://OWNER/NAME of the Hub."""
    revision: str | None = None
    """Full commit of a Hub model; needed for hf://."""
    remote_code: str | None = None
    """The one revision whose own Python code you have read and allow to run; must equal `revision`."""

    @model_validator(mode="after")
    def _pinned(self) -> BaseModelSource:
        hub = self.source.startswith("hf://")
        name = r"[A-Za-z0-9][A-Za-z0-9._-]*"
        if hub and not re.fullmatch(rf"hf://({name}/)?{name}", self.source):
            raise ValueError(f"{self.source!r} is no model of the Hub; write hf://OWNER/NAME")
        if hub and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("a Hub model needs revision, the full 40-digit commit, so that it cannot change")
        if not hub and self.revision:
            raise ValueError("revision is only for hf:// models; other sources are pinned by their digest")
        if self.remote_code is not None and (not hub or self.remote_code != self.revision):
            raise ValueError("remote_code must equal revision: remote code is allowed for one commit only")
        return self


class Lora(Part):
    kind: Literal["lora"] = "lora"
    r: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[int, Field(ge=1, le=65_536)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Annotated[tuple[Text, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    top_layers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Adapt only this many layers, counted from the output; all when left out."""


class EarlyStopping(Part):
    patience: Count = 2
    """Evaluations on dev without improvement before training stops."""


class Training(Part):
    epochs: Epochs = 2
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    gradient_accumulation: Annotated[int, Field(ge=1, le=65_536)] = 1
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] = 128
    """Texts are cut at this many tokens, in training and in serving."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto is bf16 where the hardware has it."""
    evaluations: Annotated[int, Field(ge=1, le=10_000)] = 4
    """How often in all dev is scored and a checkpoint is kept."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    seed: Seed = 42
    warm_start: bool = False
    """Start from the champion's adapter instead of a fresh one."""


class SliceGate(Part):
    margin: Share = 0.05
    min_rows: Annotated[int, Field(ge=10, le=10**9)] = 50
    """Slices with fewer clean rows are reported, not judged."""


class ForgettingGate(Part):
    anchor: Location
    """A fixed set in the format and with the columns of data.source."""
    max_drop: Share = 0.02


class Gates(Part):
    metric: Literal["accuracy", "f1_macro"] = "f1_macro"
    """The metric challenger and champion are compared by."""
    margin: Share = 0.01
    """Largest loss against the champion that the interval of the difference may still contain."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min_rows: Annotated[int, Field(ge=10, le=10**9)] = 200
    """Fewer clean holdout rows than this mean hold."""
    floors: dict[Literal["accuracy", "f1_macro"], Share] = {}
    """Absolute floors; the only gates when there is no champion yet."""
    slices: SliceGate = SliceGate()
    max_calibration_error: Share | None = None
    """Ceiling of the expected calibration error (15 equal-width bins)."""
    forgetting: ForgettingGate | None = None
    max_latency_ms: Milliseconds | None = None
    """Ceiling of the median latency of one text through the challenger, offline."""


def _without_int8(value: Any) -> Any:
    """Recipes of runs before 0.2 say int8, whose answers depended on the batch they came in."""
    return "auto" if value == "int8" else value


class Serving(Part):
    backend: Literal["onnx", "torch"] = "onnx"
    precision: Annotated[Literal["auto", "bf16", "fp32"], BeforeValidator(_without_int8)] = "auto"
    """auto is bf16 where the processor computes in it, else fp32; bf16 is tried on any. What does not hold `parity` or
    the budget gives way to the next slower one, with a warning."""
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    queue_delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0
    instances: Annotated[int, Field(ge=1, le=256)] = 1
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    latency_budget_ms: Milliseconds = 250
    """The 99th percentile that single requests of the trial must stay under."""
    parity: Annotated[float, Field(gt=0, le=0.5)] = 0.02
    """Largest difference from the offline probabilities that a served probability may have."""

    @model_validator(mode="after")
    def _bf16_is_onnx(self) -> Serving:
        if self.precision == "bf16" and self.backend != "onnx":
            raise ValueError("precision bf16 needs backend onnx")
        return self


class Schedule(Part):
    cron: Cron | None = None
    """Five-field cron expression; either this or `asset`."""
    timezone: Zone = "UTC"
    asset: AssetLocation | None = None
    """Airflow's asset, such as s3://bucket/reviews, whose updates start a run; Kubeflow has no such thing."""
    watch: bool = False
    """Look for new files at the asset's location, instead of waiting for another DAG to say that it has changed."""
    deadline: Duration = timedelta(days=1)
    """After this long in a run, Airflow tells people that it is late."""

    @model_validator(mode="after")
    def _known(self) -> Schedule:
        if (self.cron is None) == (self.asset is None):
            raise ValueError("a schedule has either cron, such as '0 3 * * 1', or asset, such as s3://bucket/reviews")
        if self.watch and self.asset is None:
            raise ValueError("watch needs asset, the location to look at")
        if self.cron is not None:
            cron.in_step(self.cron, self.zone)
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class Resources(Part):
    cpu: Cpu = 1
    memory: Memory = "2Gi"
    gpu: Gpus = 0
