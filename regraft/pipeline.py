"""The steps, their edges, resources and exit codes: the one list that every runner reads."""

from __future__ import annotations

import importlib.metadata
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic_core import to_jsonable_python

from regraft import closure, cron, narrowed, tasks
from regraft.errors import BadInput
from regraft.parts import Recipe, Resources, StepName


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline.

    `recipe` names the fields of the recipe that determine the output, beside those that the task says, `libraries` the
    distributions: together with the digests of the inputs and the code, which `closure` finds, they make its identity.
    `besides` names what else of the recipe it reads: its effect is in the inputs' digests, or is no part of the result.
    It can read no more.
    """

    name: StepName
    summary: str
    needs: tuple[StepName, ...]
    recipe: tuple[str, ...]
    besides: tuple[str, ...]
    libraries: tuple[str, ...]
    resources: Resources
    timeout_minutes: int
    pages: tuple[Literal["data page", "MLflow run", "report", "Triton model"], ...] = ()
    """What shows more of its result, for a runner to link to."""
    judges: bool = False
    """Its result has a verdict and a report, for a runner to show."""
    approval: bool = False
    """From here on a run changes what is in production: where the recipe wants approval, a run waits for it here, and a
    dry run ends here. A run that this step let pass has promoted its model, whatever comes after."""
    asks: tuple[Literal["MLflow", "Triton", "judge"], ...] = ()
    """The servers that it and its follower talk to: they get their `SECRETS`, and no other's."""
    server: Literal["MLflow", "Triton"] | None = None
    """What it makes follow the ledger; its `follower` does that at any other time."""
    news: str | None = None
    """What people are told when it is done."""

    @property
    def module(self) -> str:
        """What Python runs: the step's component."""
        return f"components.{self.name}"

    @property
    def follower(self) -> str:
        """What Python runs to compare `server` with the ledger."""
        return f"{self.module}.follow"


_MODEL = ("base_model.source", "base_model.revision", "base_model.remote_code")
"""What it takes to load a model that finetune made. All that it was trained with is in its identity, an input."""

_CONTEST = (
    *_MODEL,
    "training.seed",
    "training.max_length",
    "data.columns",
    "data.quoting",
    "description",
    "resources",
)
_CONTEST_LIBRARIES = (
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
"""What evaluate and promote, which both may hold a contest, read beside and compute with."""

STEPS: tuple[Step, ...] = (
    Step(
        name="validate",
        summary="checks fresh data against the contract and freezes it",
        needs=(),
        recipe=(
            "task",
            "data.columns",
            "data.quoting",
            "data.window",
            "data.splits",
            "data.quarantine",
            "data.contract",
        ),
        besides=("data.source", "base_model.source", "base_model.revision", "gates.forgetting", "resources"),
        libraries=("great-expectations", "numpy", "pandas", "py3langid", "pyarrow", "scipy", "tokenizers"),
        resources=Resources(cpu=2, memory="4Gi"),
        timeout_minutes=120,
        pages=("data page",),
    ),
    Step(
        name="finetune",
        summary="trains the challenger",
        needs=("validate",),
        recipe=(
            "task",
            "base_model.revision",
            "base_model.remote_code",
            "adapter",
            "training",
            "gates.metric",
        ),
        besides=("name", "owner", "base_model.source", "resources"),
        libraries=(
            "accelerate",
            "huggingface-hub",
            "numpy",
            "peft",
            "pyarrow",
            "safetensors",
            "scikit-learn",
            "scipy",
            "tokenizers",
            "torch",
            "transformers",
        ),
        resources=Resources(cpu=2, memory="8Gi"),
        timeout_minutes=24 * 60,
        pages=("MLflow run",),
        asks=("MLflow",),
    ),
    Step(
        name="evaluate",
        summary="scores challenger and champion on the same holdout and gives a verdict",
        needs=("validate", "finetune"),
        recipe=("task", "gates"),
        besides=(*_CONTEST, "name", "owner"),
        libraries=("matplotlib", *_CONTEST_LIBRARIES),
        resources=Resources(cpu=2, memory="8Gi"),
        timeout_minutes=120,
        pages=("MLflow run", "report"),
        asks=("MLflow", "judge"),
        judges=True,
    ),
    Step(
        name="promote",
        summary="registers the challenger in MLflow and makes it champion in the ledger",
        needs=("validate", "finetune", "evaluate"),
        recipe=("name", "task", "promotion", "gates"),
        besides=_CONTEST,
        libraries=("mlflow-skinny", *_CONTEST_LIBRARIES),
        resources=Resources(cpu=1, memory="4Gi"),
        timeout_minutes=60,
        pages=("MLflow run", "report"),
        asks=("MLflow", "judge"),  # again, where the champion has changed since
        approval=True,
        server="MLflow",
    ),
    Step(
        name="deploy",
        summary="makes Triton serve what the ledger says",
        needs=("promote",),
        recipe=(
            "name",
            "task",
            "training.max_length",
            "serving",
            "gates.metric",
            "gates.margin",
            "gates.confidence",
        ),
        besides=(*_MODEL, "training.seed"),
        libraries=(
            "numpy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "openvino",
            "peft",
            "pyarrow",
            "scikit-learn",
            "scipy",
            "tokenizers",
            "torch",
            "transformers",
        ),
        resources=Resources(cpu=2, memory="4Gi"),
        timeout_minutes=60,
        pages=("Triton model",),
        asks=("MLflow", "Triton"),  # MLflow for its alias
        server="Triton",
        news="Triton serves the champion",
    ),
)


def steps(task: str) -> tuple[Step, ...]:
    """The steps of a task's recipes: one that makes Triton follow is none of them where the task is not served."""
    return tuple(step for step in STEPS if step.server != "Triton" or tasks.served(task))


def followers(task: str) -> Mapping[str, Step]:
    """What follows the ledger, each with its step. Triton first: where it refuses a champion the ledger changes, and
    MLflow follows that."""
    return {step.server: step for step in reversed(steps(task)) if step.server}


SECRETS: Mapping[str, tuple[str, ...]] = {
    "MLflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    "Triton": ("REGRAFT_TRITON_TOKEN",),
    "judge": ("REGRAFT_JUDGE_KEY",),
    "the runner": ("REGRAFT_WEBHOOK", "KFP_TOKEN"),
}
"""The variables by which one server knows who asks. Steps read foreign data and models: each gets those it needs."""


def withheld(step: Step | None) -> frozenset[str]:
    """The variables that a step and its follower do not get; None: what is no step, and asks no server."""
    asked = step.asks if step else ()
    return frozenset(name for server, names in SECRETS.items() if server not in asked for name in names)


def variables(step: Step, environment: Mapping[str, str]) -> dict[str, str]:
    """What a step, or its follower, gets of an environment where it is a process."""
    return {name: value for name, value in environment.items() if name not in withheld(step)}


def step(name: str) -> Step:
    """The step of that name. Raises BadInput."""
    for candidate in STEPS:
        if candidate.name == name:
            return candidate
    raise BadInput(f"no step is called {name!r}; the steps are {', '.join(s.name for s in STEPS)}")


def resources(recipe: Recipe, step: Step) -> Resources:
    """What a step may use: the recipe's word, else the default."""
    return recipe.resources.get(step.name, step.resources)


def threads(recipe: Recipe, step: Step) -> dict[str, str]:
    """The variables that hold a step's libraries to its share of the processor. Read when a library is first imported.

    Threads that wait sleep: where other processes want the same cores, spinning made training ten times as slow.
    """
    count = str(math.ceil(resources(recipe, step).cpu))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**dict.fromkeys(names, count), "OMP_WAIT_POLICY": "PASSIVE"}


def for_step(recipe: Recipe, step: Step) -> Recipe:
    """The recipe as a step sees it: reading what the step does not declare raises NotDeclared."""
    return narrowed.to((*_read(recipe, step), *step.besides), recipe, reader=f"step {step.name}")


def _read(recipe: Recipe, step: Step) -> tuple[str, ...]:
    """The fields of the recipe that determine the step's output."""
    return (*step.recipe, *tasks.of(recipe.task).READS)


def recipe_part(recipe: Recipe, step: Step) -> dict[str, object]:
    """The fields of the recipe that determine the step's output, as JSON values."""
    return {field: to_jsonable_python(operator.attrgetter(field)(recipe)) for field in _read(recipe, step)}


def code_digest(step: Step, task: str) -> str:
    """SHA-256 over the code that determines the step's output for a task. Raises BadInput where it is not installed."""
    try:
        return closure.digest(step.module, task=task)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the code of step {step.name} is not installed: {error.name}", next="pip install 'regraft[components]'"
        ) from error


def library_versions(step: Step, task: str) -> dict[str, str]:
    """Versions of the libraries that determine the output for a task. Raises BadInput where one is not installed."""
    own = getattr(tasks.of(task), "LIBRARIES", {}).get(step.name, ())
    return versions((*step.libraries, *own), of=f"step {step.name}")


def versions(libraries: Iterable[str], *, of: str) -> dict[str, str]:
    """Versions of distributions, without local parts such as +cpu. Raises BadInput, which names who needs one."""
    by_name = {}
    for name in libraries:
        try:
            by_name[name] = _version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError as error:
            raise BadInput(f"{of} needs the library {name}", next="pip install 'regraft[components]'") from error
    return by_name


def _version(library: str) -> str:
    """Its line of the metadata: to parse all of those, as importlib.metadata.version does, takes a millisecond each."""
    metadata = importlib.metadata.distribution(library).read_text("METADATA") or ""
    line = re.search(r"^Version: (\S+)", metadata, re.MULTILINE)
    return line[1] if line else importlib.metadata.version(library)


RUN_FORMAT = "%Y-%m-%dT%H-%M"


def run_id(recipe: Recipe, now: datetime | None = None) -> str:
    """The run that is due: named by the end of its data window, in UTC.

    That is the last time of the schedule, which may be `now` itself, or this day where the recipe has no cron: running
    twice within one interval is the same run, so the second time everything is there already. Every runner asks here.
    """
    now = now or datetime.now(UTC)
    if recipe.schedule is None or recipe.schedule.cron is None:
        return now.astimezone(UTC).strftime("%Y-%m-%dT00-00")
    return cron.due(recipe.schedule.cron, recipe.schedule.zone, now).strftime(RUN_FORMAT)


def run_time(run: str) -> datetime:
    """The end of a run's data window, from its id. Raises BadInput."""
    match = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2})(\.[a-z0-9-]+)?", run)
    try:
        if match and "1970" <= match[1] < "2200":  # windows of a century reach back from it
            return datetime.strptime(match[1], RUN_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        pass
    raise BadInput(
        f"{run!r} is not a run id; it is the end of the data window in UTC, such as 2026-11-24T03-00, "
        "and may end in a label, such as 2026-11-24T03-00.try-2"
    )
