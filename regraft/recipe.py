"""The recipe: the YAML file that declares one model. Reading one finds all its errors at once, each with its line."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from regraft import yaml_marks
from regraft.errors import BadInput

StepName = Literal["validate", "finetune", "evaluate", "promote", "deploy"]
Severity = Literal["critical", "warning"]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _duration(value: Any) -> Any:
    """Turns `12h`, `7d` or `26w` into a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d+)([hdw])", str(value))
    if not match:
        raise ValueError(f"{value!r} is not a duration; write a number and h, d or w, such as 26w")
    return timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[match[2]]: int(match[1])})


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^\d+[hdw]$")]),
]


def _location(value: Any) -> Any:
    """A URL or path; credentials inside one are refused, since recipes are committed."""
    if isinstance(value, str) and re.search(r"://[^/@\s]*:[^/@\s]*@", value):
        raise ValueError("a URL with credentials in it; secrets come from environment variables")
    return value


Location = Annotated[str, BeforeValidator(_location), Field(min_length=1)]


class Columns(Part):
    text: str
    """Column that holds the text."""
    label: str
    """Column that holds the label."""
    time: str | None = None
    """Column that says when a row arrived; needed for a window and for freshness."""
    slices: tuple[str, ...] = ()
    """Columns whose values cut the holdout into slices, each of which has its own gate."""


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
    min: Annotated[int, Field(ge=1)] = 100
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
    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)]
    severity: Severity = "warning"


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
    freshness: FreshnessCheck | None = None
    drift: DriftCheck = DriftCheck()


class Data(Part):
    source: Location
    """fsspec URL, path or package://NAME/PATH of Parquet, CSV or JSON Lines: a file, a glob or a directory.
    ${VARIABLE} and ${VARIABLE:-default} are taken from the environment."""
    columns: Columns
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    """The label set, in the order of the model's outputs."""
    window: Duration | None = None
    """How far back from the run's time rows count; all rows when left out."""
    splits: Splits = Splits()
    quarantine: Share = 0.01
    """Largest share of bad rows that may be set aside; more refuse the run."""
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels {list(self.labels)} name one label twice")
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
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    top_layers: Annotated[int, Field(ge=1)] | None = None
    """Adapt only this many layers, counted from the output; all when left out."""


class EarlyStopping(Part):
    patience: Annotated[int, Field(ge=1)] = 2
    """Evaluations on dev without improvement before training stops."""


class Training(Part):
    epochs: Annotated[float, Field(gt=0)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 32
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_length: Annotated[int, Field(ge=8)] = 128
    """Texts are cut at this many tokens, in training and in serving."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto is bf16 where the hardware has it."""
    evaluations: Annotated[int, Field(ge=1)] = 4
    """How often in all dev is scored and a checkpoint is kept."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    seed: int = 42
    warm_start: bool = False
    """Start from the champion's adapter instead of a fresh one."""


class SliceGate(Part):
    margin: Share = 0.05
    min_rows: Annotated[int, Field(ge=10)] = 50
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
    min_rows: Annotated[int, Field(ge=10)] = 200
    """Fewer clean holdout rows than this mean hold."""
    floors: dict[Literal["accuracy", "f1_macro"], Share] = {}
    """Absolute floors; the only gates when there is no champion yet."""
    slices: SliceGate = SliceGate()
    max_calibration_error: Share | None = None
    """Ceiling of the expected calibration error (15 equal-width bins)."""
    forgetting: ForgettingGate | None = None
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
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
    queue_delay_ms: Annotated[float, Field(ge=0)] = 0
    instances: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 2
    latency_budget_ms: Annotated[float, Field(gt=0)] = 250
    """The 99th percentile that single requests of the trial must stay under."""
    parity: Annotated[float, Field(gt=0, le=0.5)] = 0.02
    """Largest difference from the offline probabilities that a served probability may have."""

    @model_validator(mode="after")
    def _bf16_is_onnx(self) -> Serving:
        if self.precision == "bf16" and self.backend != "onnx":
            raise ValueError("precision bf16 needs backend onnx")
        return self


class Schedule(Part):
    cron: str | None = None
    """Five-field cron expression; either this or `asset`."""
    timezone: str = "UTC"
    asset: Location | None = None
    """Airflow's asset, such as s3://bucket/reviews, whose updates start a run; Kubeflow has no such thing."""
    watch: bool = False
    """Look for new files at the asset's location, instead of waiting for another DAG to say that it has changed."""
    deadline: Duration = timedelta(days=1)
    """After this long in a run, Airflow tells people that it is late."""

    @model_validator(mode="after")
    def _known(self) -> Schedule:
        from croniter import croniter

        if (self.cron is None) == (self.asset is None):
            raise ValueError("a schedule has either cron, such as '0 3 * * 1', or asset, such as s3://bucket/reviews")
        if self.watch and self.asset is None:
            raise ValueError("watch needs asset, the location to look at")
        if self.cron is not None and (len(self.cron.split()) != 5 or not croniter.is_valid(self.cron)):
            raise ValueError(f"{self.cron!r} is not a five-field cron expression, such as '0 3 * * 1'")
        try:
            ZoneInfo(self.timezone)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            close = difflib.get_close_matches(self.timezone, available_timezones(), 1)
            raise ValueError(f"unknown time zone {self.timezone!r}{_did_you_mean(close)}") from error
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class Resources(Part):
    cpu: Annotated[float, Field(gt=0)] = 1
    memory: Annotated[str, Field(pattern=r"^[1-9]\d*(Mi|Gi)$")] = "2Gi"
    gpu: Annotated[int, Field(ge=0)] = 0


class Recipe(Part):
    """One model, declared once."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name of the registered model, of the served model and of the folder in the store: a DNS label."""
    task: Literal["text-classification"]
    description: str = ""
    owner: str = "regraft"
    data: Data
    base_model: BaseModelSource
    adapter: Lora = Lora()
    training: Training = Training()
    gates: Gates = Gates()
    promotion: Literal["automatic", "approval"] = "automatic"
    """approval stops with the challenger registered, until `regraft promote NAME --version N`."""
    serving: Serving = Serving()
    schedule: Schedule | None = None
    resources: dict[StepName, Resources] = {}


def _did_you_mean(close: list[str]) -> str:
    return f"; did you mean {close[0]!r}?" if close else ""


def load(path: str | Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        BadInput: the file is missing or not YAML, or breaks the schema; all errors are in the one message.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"cannot read the recipe: {reason}", where=str(path), next="ls dags/recipes") from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str = "recipe") -> Recipe:
    """Parses the text of a recipe; `where` names it in errors. Raises BadInput with every error found."""
    root, data, problems = yaml_marks.read(text, where=where)
    if not isinstance(data, dict):
        raise BadInput("a recipe is a YAML mapping that starts with `name:`", where=where)
    recipe = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += [_explain(root, dict(detail)) for detail in error.errors()]
    if recipe is None or problems:
        problems.sort()
        lines = [f"  line {line}: {message}" for line, message in problems]
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        raise BadInput(
            "\n".join([count, *lines]),
            where=where,
            next=f"regraft validate {where}  (after mending it; editors complete from regraft/recipe.schema.json)",
        )
    return recipe


def _explain(root: yaml.Node | None, detail: dict[str, Any]) -> tuple[int, str]:
    """The line and the sentence of one pydantic error."""
    location: tuple[int | str, ...] = detail["loc"]
    key = ".".join(str(part) for part in location)
    line = yaml_marks.line(root, location)
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), 1)
        return line, f"{key}: unknown key{_did_you_mean(close)}"
    if detail["type"] == "missing":
        return line, f"{key}: missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] != "value_error" and isinstance(detail["input"], str | int | float):
        message += f" (found {detail['input']!r})"
    return line, f"{key}: {message}" if key else message


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the schema allows at `location`."""
    part: type[Part] = Recipe
    for name in location:
        field = part.model_fields.get(str(name))
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        part = next((c for c in candidates if isinstance(c, type) and issubclass(c, Part)), part)
    return list(part.model_fields)


def json_schema() -> dict[str, Any]:
    """The recipe's JSON schema, committed as regraft/recipe.schema.json."""
    schema = Recipe.model_json_schema(mode="validation")
    for name, part in [("Recipe", schema), *schema["$defs"].items()]:
        for field, said in _docstrings().get(name, {}).items():
            part["properties"][field]["description"] = said
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _docstrings() -> dict[str, dict[str, str]]:
    """What stands below each field, by class and field.

    Only for the schema: pydantic's own use_attribute_docstrings reads the source in every process that starts.
    """
    import ast
    import inspect
    import itertools

    tree = ast.parse(inspect.getsource(inspect.getmodule(Recipe)))  # type: ignore[arg-type]
    found: dict[str, dict[str, str]] = {}
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, below in itertools.pairwise(part.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found.setdefault(part.name, {})[name] = inspect.cleandoc(text)
    return found
