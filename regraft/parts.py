"""The parts of a recipe: what each key may say, and its default."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from regraft import cron
from regraft.fields import (
    NAME,
    AssetLocation,
    Count,
    Cpu,
    Cron,
    Description,
    Duration,
    Epochs,
    Gpus,
    Location,
    Memory,
    Milliseconds,
    Owner,
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
    """Columns of the source: the task adds those that its rows are made of."""

    time: Text | None = None
    """Column that says when a row arrived; needed for a window and for freshness."""
    slices: tuple[Text, ...] = ()
    """Columns whose values cut the holdout into slices, each of which has its own gate."""

    @model_validator(mode="after")
    def _differ(self) -> Columns:
        named = [key for key in type(self).model_fields if key != "slices" and getattr(self, key) is not None]
        distinct([getattr(self, key) for key in named], "columns", "column")
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


class LengthCheck(Part):
    min: Annotated[int, Field(ge=0, le=10**9)] = 1
    max: Count
    severity: Severity = "warning"

    @model_validator(mode="after")
    def _some_length_is_right(self) -> LengthCheck:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}: no text has such a length")
        return self


class LanguageCheck(Part):
    only: Annotated[tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...], Field(min_length=1)]
    """Languages of the texts, by ISO 639's codes, such as [en, de]."""
    max: Share = 0.05
    """Largest share of a sample of 2000 rows that may be in others; texts of which none is sure do not count."""
    severity: Severity = "warning"


class FreshnessCheck(Part):
    max_age: Duration
    """How old the newest row may be at the end of the window."""
    severity: Severity = "critical"


class DriftCheck(Part):
    max: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Largest Jensen-Shannon distance from the champion's training data, of words, of languages and of what the task
    counts."""
    severity: Severity = "warning"


class Contract(Part):
    """What the data must satisfy. Critical refuses the run, warning is reported."""

    rows: RowsCheck = RowsCheck()
    characters: LengthCheck = LengthCheck(max=10_000)
    """Text length in characters; rows outside it are quarantined, and a larger share than data.quarantine fails."""
    tokens: LengthCheck | None = None
    """Text length in tokens of the base model's tokenizer.json, counted on a sample of 2000 rows; a larger share
    outside it than data.quarantine fails."""
    nulls: ShareCheck = ShareCheck(max=0.01, severity="critical")
    duplicates: ShareCheck = ShareCheck(max=0.1)
    near_duplicates: ShareCheck = ShareCheck(max=0.2)
    overlap: ShareCheck = ShareCheck(max=0.1)
    """Rows of the holdout, and of the anchor set, that have 8 to 13 words in a row in common with a row of train."""
    encoding: ShareCheck = ShareCheck(max=0.01)
    pii: ShareCheck = ShareCheck(max=0.01)
    """Rows that hold what looks like personal data: an e-mail address, a number of a card, account, phone or person, an
    IP address. No row has a time limit: the expressions are validate's own, and tests show each linear in the text."""
    instructions: ShareCheck = ShareCheck(max=0.01)
    """Rows that hold what looks like instructions to a model: to ignore what it was told, to be another, to say what
    it was told; marks of roles; characters that nobody sees."""
    languages: LanguageCheck | None = None
    """Languages that texts may be in; any where it is left out."""
    freshness: FreshnessCheck | None = None
    drift: DriftCheck = DriftCheck()


class Data(Part):
    source: Location
    """fsspec URL, path or package://NAME/PATH of Parquet, CSV or JSON Lines: a file, a glob or a directory.
    ${REGRAFT_DATA} and ${REGRAFT_DATA:-default} are taken from the environment, as are other variables that are listed
    in REGRAFT_VARIABLES where the steps run; REGRAFT_PROTOCOLS there lists the protocols that are open."""
    quoting: Literal["auto", "minimal", "none"] = "auto"
    """Whether values of CSV and TSV may stand in quotes: minimal, where they have to; none, a quote is a character like
    any other. auto is minimal for .csv and none for .tsv."""
    columns: Columns
    window: Duration | None = None
    """How far back from the run's time rows count; all rows when left out."""
    splits: Splits = Splits()
    quarantine: Share = 0.01
    """Largest share of bad rows that may be set aside; more refuse the run."""
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.window and not self.columns.time:
            raise ValueError("window needs columns.time, the column that says when a row arrived")
        if self.contract.freshness and not self.columns.time:
            raise ValueError("contract.freshness needs columns.time, the column that says when a row arrived")
        return self


class BaseModelSource(Part):
    source: Location
    """A path, an fsspec URL, package://NAME/PATH of an installed package, hf://OWNER/NAME of the Hub, or
    champion://NAME, the champion of another recipe in the same store: a training begins with whoever is champion there
    then."""
    revision: str | None = None
    """Full commit of a Hub model; needed for hf://."""
    remote_code: str | None = None
    """The one revision whose own Python code you have read and allow to run; must equal `revision`, and be listed in
    REGRAFT_REMOTE_CODE where the steps run, as OWNER/NAME@COMMIT."""

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
    dora: bool = False
    """Learn the length of each weight apart from its direction (DoRA): often better at a small r, slower to train."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (rsLoRA), so that a large r learns as well."""


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
    """Start from the champion's adapter instead of a fresh one, with a fresh optimiser."""
    rebase_every: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With warm_start: after so many trainings one on the other, start afresh from the base model."""
    replay: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of the rows trained on that come from the windows of earlier champions, the ten newest; 0 takes none."""

    @model_validator(mode="after")
    def _goes_on(self) -> Training:
        if self.rebase_every is not None and not self.warm_start:
            raise ValueError("rebase_every needs warm_start: true: without it each training starts afresh")
        return self


class SliceGate(Part):
    margin: Share = 0.05
    min_rows: Annotated[int, Field(ge=10, le=10**9)] = 50
    """Slices with fewer clean rows are reported, not judged."""


class ForgettingGate(Part):
    anchor: Location
    """A fixed set in the format and with the columns of data.source."""
    max_drop: Share = 0.02


class Gates(Part):
    metric: str
    """The metric challenger and champion are compared by."""
    margin: Share = 0.01
    """Largest loss against the champion that the interval of the difference may still contain."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min_rows: Annotated[int, Field(ge=10, le=10**9)] = 200
    """Fewer clean holdout rows than this mean hold."""
    floors: dict[Any, Share] = {}
    """Absolute floors; the only gates when there is no champion yet."""
    slices: SliceGate = SliceGate()
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
    """Largest difference from the offline answers that a served answer may have, as the task measures it."""

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
    """Airflow's asset, such as s3://bucket/reviews, whose updates start a run; champion://NAME is updated where a
    run of that recipe ends with a champion. Kubeflow has no such thing."""
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


class Recipe(Part):
    """One model, declared once: what all tasks share. Each task narrows `task`, `data` and `gates` to its own."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    """Name of the registered model, of the served model and of the folder in the store: a DNS label."""
    task: str
    """What the model does."""
    description: Description = ""
    owner: Owner = "regraft"
    data: Data
    base_model: BaseModelSource
    adapter: Lora = Lora()
    training: Training = Training()
    gates: Gates
    promotion: Literal["automatic", "approval"] = "automatic"
    """approval stops with the challenger registered, until `regraft promote NAME --version N`."""
    serving: Serving = Serving()
    schedule: Schedule | None = None
    resources: dict[StepName, Resources] = {}
