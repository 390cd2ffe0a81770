"""The five steps, their edges, resources and exit codes: the one list that every runner reads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from regraft import cron
from regraft.errors import BadInput
from regraft.parts import Resources, StepName
from regraft.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline.

    `recipe` names the fields of the recipe that determine the output, `code` the packages, `libraries` the
    distributions: together with the digests of the step's inputs they make its identity.
    """

    name: StepName
    summary: str
    needs: tuple[StepName, ...]
    recipe: tuple[str, ...]
    code: tuple[str, ...]
    libraries: tuple[str, ...]
    resources: Resources
    timeout_minutes: int


STEPS: tuple[Step, ...] = (
    Step(
        name="validate",
        summary="checks fresh data against the contract and freezes it",
        needs=(),
        recipe=(
            "task",
            "data.columns",
            "data.labels",
            "data.quoting",
            "data.window",
            "data.splits",
            "data.quarantine",
            "data.contract",
        ),
        code=("components.validate", "regraft.reading"),
        libraries=("great-expectations", "pandas", "pyarrow", "tokenizers"),
        resources=Resources(cpu=2, memory="4Gi"),
        timeout_minutes=120,
    ),
    Step(
        name="finetune",
        summary="trains the challenger",
        needs=("validate",),
        recipe=(
            "task",
            "data.labels",
            "base_model.revision",
            "base_model.remote_code",
            "adapter",
            "training",
        ),
        code=("components.finetune", "regraft.tasks"),
        libraries=("accelerate", "peft", "tokenizers", "torch", "transformers"),
        resources=Resources(cpu=2, memory="8Gi"),
        timeout_minutes=24 * 60,
    ),
    Step(
        name="evaluate",
        summary="scores challenger and champion on the same holdout and gives a verdict",
        needs=("validate", "finetune"),
        recipe=("task", "data.labels", "data.columns.slices", "gates"),
        code=(
            "components.evaluate",
            "regraft.tasks",
            "regraft.contest",
            "regraft.gate",
            "regraft.intervals",
            "regraft.reading",
        ),
        libraries=("matplotlib", "numpy", "peft", "pyarrow", "scikit-learn", "scipy", "torch", "transformers"),
        resources=Resources(cpu=2, memory="8Gi"),
        timeout_minutes=120,
    ),
    Step(
        name="promote",
        summary="registers the challenger in MLflow and makes it champion in the ledger",
        needs=("validate", "finetune", "evaluate"),
        recipe=("name", "task", "promotion", "gates"),
        code=(
            "components.promote",
            "regraft.tasks",
            "regraft.contest",
            "regraft.gate",
            "regraft.intervals",
            "regraft.reading",
        ),
        libraries=("mlflow-skinny", "peft", "torch", "transformers"),
        resources=Resources(cpu=1, memory="4Gi"),
        timeout_minutes=60,
    ),
    Step(
        name="deploy",
        summary="makes Triton serve what the ledger says",
        needs=("promote",),
        recipe=("name", "task", "data.labels", "training.max_length", "serving", "gates.metric", "gates.margin"),
        code=("components.deploy", "regraft.tasks", "regraft.intervals"),
        libraries=("onnx", "onnxruntime", "openvino", "torch", "transformers"),
        resources=Resources(cpu=2, memory="4Gi"),
        timeout_minutes=60,
    ),
)


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


def recipe_part(recipe: Recipe, step: Step) -> dict[str, object]:
    """The fields of the recipe that determine the step's output, as JSON values."""
    whole = recipe.model_dump(mode="json")
    part: dict[str, object] = {}
    for field in step.recipe:
        value = whole
        for key in field.split("."):
            value = value[key]
        part[field] = value
    return part


def code_digest(step: Step) -> str:
    """SHA-256 over the Python sources of the step's packages and modules."""
    total = hashlib.sha256()
    for name in step.code:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise BadInput(
                f"the code of step {step.name} is not installed: {name}",
                next="pip install 'regraft[components]'",
            )
        origin = Path(spec.origin)
        for file in sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]:
            total.update(f"{name}/{file.relative_to(origin.parent)}\n".encode() + file.read_bytes())
    return total.hexdigest()


def library_versions(step: Step) -> dict[str, str]:
    """Versions of the libraries that determine the output, without local parts such as +cpu."""
    versions = {}
    for name in step.libraries:
        try:
            versions[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError as error:
            raise BadInput(
                f"step {step.name} needs the library {name}", next="pip install 'regraft[components]'"
            ) from error
    return versions


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
