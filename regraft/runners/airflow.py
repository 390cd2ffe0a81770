"""A recipe as an Airflow DAG: the steps of `regraft.pipeline`, started the one way steps start.

With REGRAFT_CLUSTER, a file of cluster settings, each step is a Kubernetes pod; without, a process on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetWatcher,
    AsyncCallback,
    CronDataIntervalTimetable,
    CronTriggerTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    get_parsing_context,
)

from regraft import cron, escaped, locations, pipeline, process, recipe, sources
from regraft.errors import BadInput, Exit, RegraftError
from regraft.parts import Recipe, Resources
from regraft.runners import airflow_form, airflow_step, cluster
from regraft.runners.airflow_approval import approval
from regraft.runners.cluster import Cluster

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml")
GPU_POOL = "regraft_gpu"
"""Airflow's pool of GPUs: a step takes as many slots as it wants GPUs."""
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment of Airflow's processes says.

    Args:
        recipes: REGRAFT_RECIPES: directory or bucket prefix with the recipes; `recipes/` beside the DAG file if unset.
        store: REGRAFT_STORE: URL of the store.
        cluster: REGRAFT_CLUSTER: a file of cluster settings; with it, steps are pods, without, processes.
        python: REGRAFT_PYTHON: interpreter of the components' environment, for processes.
        retry_seconds: REGRAFT_RETRY_SECONDS: wait before the second attempt; it doubles each time, up to an hour.
        watch_seconds: REGRAFT_WATCH_SECONDS: between two looks at a watched location.
        doctor: REGRAFT_DOCTOR_CRON: when regraft_doctor runs.
        endpoints: the variables that say where links lead and what recipes may ask for; those of the cluster
            settings come first.
    """

    recipes: str
    store: str
    cluster: Cluster | None
    python: str
    retry_seconds: float
    watch_seconds: float
    doctor: str
    endpoints: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, recipes: Path) -> Settings:
        """Reads the settings. Raises BadInput."""
        get = os.environ.get
        pods = cluster.load(get("REGRAFT_CLUSTER")) if get("REGRAFT_CLUSTER") else None
        store = get("REGRAFT_STORE") or (pods.store if pods else None)
        if not store:
            raise BadInput("no store is set", where="REGRAFT_STORE", next="export REGRAFT_STORE=s3://bucket/prefix")
        return cls(
            recipes=get("REGRAFT_RECIPES") or str(recipes),
            store=store,
            cluster=pods,
            python=get("REGRAFT_PYTHON") or sys.executable,
            retry_seconds=_seconds("REGRAFT_RETRY_SECONDS"),
            watch_seconds=_seconds("REGRAFT_WATCH_SECONDS"),
            doctor=_cron("REGRAFT_DOCTOR_CRON", "*/30 * * * *"),
            endpoints={**os.environ, **(pods.environment if pods else {})},
        )

    @property
    def tracking(self) -> str:
        return self.endpoints.get("MLFLOW_TRACKING_URI", "").rstrip("/")


def _seconds(name: str, default: str = "60") -> float:
    """A time from the environment. Raises BadInput."""
    value = os.environ.get(name) or default
    try:
        if 0 < float(value) <= 86_400:
            return float(value)
    except ValueError:
        pass
    raise BadInput(f"{value!r} is no number of seconds up to a day", where=name, next=f"export {name}={default}")


def _cron(name: str, default: str) -> str:
    """A cron expression from the environment. Raises BadInput."""
    try:
        return cron.expression(os.environ.get(name) or default)
    except ValueError as error:
        raise BadInput(str(error), where=name, next=f"export {name}='{default}'") from error


def dags(recipes: Path) -> dict[str, DAG]:
    """One DAG per recipe that can be one, by name; while a task starts, only the one it belongs to."""
    only = get_parsing_context().dag_id
    made, broken = build(Settings.from_environment(recipes), only=only)
    if only and not made and broken:
        raise broken[0]
    return made


def refuse_broken(recipes: Path) -> None:
    """Raises BadInput with the errors of all recipes that are no DAG, for Airflow's list of import errors."""
    broken = build(Settings.from_environment(recipes))[1]
    if broken:
        raise BadInput(
            "\n\n".join([f"recipes that do not hold: {len(broken)}; the others are not affected", *map(str, broken)])
        )


def build(settings: Settings, *, only: str | None = None) -> tuple[dict[str, DAG], list[RegraftError]]:
    """The DAGs of all recipes, and why the others are none. What befalls one recipe is no matter of the others."""
    wanted, broken = read(settings, only=only)
    made: dict[str, DAG] = {}
    assets: dict[str, tuple[str, str]] = {}
    for declared, text, path in wanted:
        try:
            _one_name_an_asset(declared, assets)
            if not only:
                _can_be_stored(dag(declared, text, settings, form={}))
            made[declared.name] = dag(declared, text, settings)
        except RegraftError as error:
            where = f"{path}: recipe {declared.name} cannot become a DAG: {error.where}"
            broken.append(BadInput(error.what, where=where, next=error.next))
        except Exception as error:  # whatever Airflow, its plugins or its policies say
            why = f"recipe {declared.name} cannot become a DAG: {type(error).__name__}: {error}"
            broken.append(BadInput(why, where=path, next="mend what it says, in the recipe or in Airflow's settings"))
    return made, broken


def _one_name_an_asset(declared: Recipe, assets: dict[str, tuple[str, str]]) -> None:
    """Raises BadInput where another recipe spells the asset otherwise: Airflow would never start one of the two."""
    if declared.schedule and declared.schedule.asset:
        location = declared.schedule.asset
        other, name = assets.setdefault(Asset(location).uri, (location, declared.name))
        if other != location:
            raise BadInput(
                f"{location!r} is the asset of recipe {name} too, which writes it {other!r}",
                where="schedule.asset",
                next="write it in the same way in both",
            )


def _can_be_stored(made: DAG) -> None:
    """Does what Airflow does with a DAG before it runs, since an error there takes all DAGs of a file along.

    The form of a manual run, and Airflow's JSON schema of DAGs, take ten times the time of all else. The one is the
    same for all recipes, and Airflow checks the other for each DAG by itself: both are left out.
    """
    from airflow.serialization.serialized_objects import DagSerialization

    made.validate()
    made.check_cycle()
    stored = {"__version": DagSerialization.SERIALIZER_VERSION, "dag": DagSerialization.serialize_dag(made)}
    again = DagSerialization.from_dict(json.loads(json.dumps(stored)))
    again.timetable.validate()
    again.next_dagrun_info(last_automated_run_info=None)


def read(settings: Settings, *, only: str | None = None) -> tuple[list[tuple[Recipe, str, str]], list[RegraftError]]:
    """All recipes with their text and path, and the errors of those that do not hold; only the one of a name if given.

    Raises:
        RegraftError: the folder itself cannot be read.
    """
    good: dict[str, tuple[Recipe, str, str]] = {}
    broken: list[RegraftError] = []
    listed = sources.listed(*sources.filesystem(settings.recipes), SUFFIXES, where=settings.recipes)
    if not only:
        _say_what_is_left_out(listed.hidden, settings)
    for path in listed.paths:
        mend = None if "file" in listed.system.protocol else "regraft check COPY  (of that file), then put it back"
        try:
            with sources.reading(path):
                content = listed.system.cat_file(path)
            text = recipe.decode(content, where=path)
            named = re.search(r"^name:[ \t]*([a-z0-9-]+)[ \t]*$", text, re.MULTILINE)
            if only and named and named[1] != only:
                continue
            declared = recipe.parse(text, where=path, next=mend, environment=settings.endpoints)
            if declared.name in good:
                raise BadInput(
                    f"another recipe here is called {declared.name!r} too",
                    where=path,
                    next=f"give one of them another name; the other is {good[declared.name][2]}",
                )
            good[declared.name] = (declared, text, path)
        except RegraftError as error:
            broken.append(error)
    return list(good.values()), broken


def _say_what_is_left_out(hidden: list[str], settings: Settings) -> None:
    """Warns of recipes that are no DAG because of their name. Kubernetes mounts a config map's files below `..` too."""
    names = [name for name in hidden if name.lower().endswith(SUFFIXES) and not name.startswith("..")]
    if names:
        why = "since a part of the path starts with . or _"
        log.warning("left out of %s, %s: %s", settings.recipes, why, escaped.lines(sources.some(names)))


def dag(declared: Recipe, text: str, settings: Settings, *, form: dict[str, Param] | None = None) -> DAG:
    """The DAG of a recipe; `form` is what a manual run can be told, instead of all there is."""
    schedule = declared.schedule
    deadline = DeadlineAlert(
        name="late",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=schedule.deadline if schedule else timedelta(days=1),
        callback=AsyncCallback(airflow_step.late, kwargs={"recipe": declared.name}),
    )
    made = DAG(
        declared.name,
        auto_register=False,  # it is found by its name in the file, where it holds
        description=declared.description or f"Keeps {declared.name} current",
        doc_md=_page(declared, settings),
        schedule=_schedule(declared, settings),
        start_date=BEGINNING,
        catchup=False,
        max_active_runs=1,
        deadline=deadline,
        tags=["regraft", declared.task, declared.owner],
        params=airflow_form.params() if form is None else form,
        user_defined_macros=airflow_form.macros(declared, text, settings.endpoints),
        default_args={
            "owner": declared.owner,
            "retries": settings.cluster.retries if settings.cluster else RETRIES,
            "retry_delay": timedelta(seconds=settings.retry_seconds),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(hours=1),
            "on_failure_callback": airflow_step.notice("failed"),
            "on_skipped_callback": airflow_step.notice("was skipped"),
        },
    )
    with made:
        tasks = []
        for step in pipeline.steps(declared.task):
            if step.approval and declared.promotion == "approval":
                tasks.append(approval(declared, settings.store, settings.tracking, pre_execute=_not_in_a_dry_run))
            tasks.append(_task(declared, step, settings))
        airflow_step.chained(declared, tasks)
    return made


def _task(declared: Recipe, step: pipeline.Step, settings: Settings) -> Any:
    """The task of a step."""
    resources = pipeline.resources(declared, step)
    environment = {
        "REGRAFT_WHO": "airflow {{ dag_run.run_id }}",
        "REGRAFT_FORCE": "{{ '1' if params.get('force') else '' }}",
    }
    if step.approval and declared.promotion == "approval":
        environment["REGRAFT_APPROVED_BY"] = "{{ regraft_approved_by(ti) }}"
    pool = {"pool": GPU_POOL, "pool_slots": resources.gpu} if resources.gpu else {}
    return _operator(
        settings,
        step=step,
        resources=resources,
        task_id=step.name,
        module=step.module,
        recipe="{{ regraft_recipe(params) }}",
        arguments=process.arguments(store=settings.store, run="{{ regraft_run(dag_run, params) }}"),
        environment=environment,
        links=airflow_step.links(step, settings.tracking, settings.endpoints.get("REGRAFT_TRITON_URLS", "")),
        doc_md=_manual(step, declared, settings),
        execution_timeout=timedelta(minutes=step.timeout_minutes),
        pre_execute=_not_in_a_dry_run if step.approval else None,
        on_success_callback=airflow_step.notice(f"is done: {step.news}") if step.news else None,
        **pool,
    )


def _operator(settings: Settings, *, step: pipeline.Step, resources: Resources, **arguments: Any) -> Any:
    """A pod where there is a cluster, else a process: the one place where the two ways part."""
    if settings.cluster is None:
        return airflow_step.StepProcess(python=settings.python, **arguments)
    from regraft.runners.airflow_pod import pod  # takes seconds: only where there are pods

    return pod(settings.cluster, step=step, resources=resources, **arguments)


def _schedule(declared: Recipe, settings: Settings) -> Any:
    schedule = declared.schedule
    if schedule is None:
        return None
    if schedule.cron is not None:
        return CronDataIntervalTimetable(schedule.cron, timezone=schedule.timezone)
    location = locations.asset(schedule)
    watchers = []
    if schedule.watch:
        from regraft.runners.airflow_watch import Landed

        trigger = Landed(location=location, seconds=settings.watch_seconds)
        watchers.append(AssetWatcher(name="landed", trigger=trigger))
    return [Asset(location, watchers=watchers)]


def _not_in_a_dry_run(context: Any) -> None:
    if context["params"].get("dry_run"):
        why = "dry run: nothing is promoted or served; the verdict stands in the store"
        airflow_step.end(context["task"].task_id, Exit.REFUSED, why)


def _page(declared: Recipe, settings: Settings) -> str:
    """The DAG's page."""
    schedule = declared.schedule
    when = "by hand"
    if schedule and schedule.cron:
        when = f"`{schedule.cron}` {schedule.timezone}"
    elif schedule:
        when = f"when data lands at {escaped.code(str(schedule.asset))}"
    floors = ", ".join(f"{name} ≥ {value:g}" for name, value in declared.gates.floors.items()) or "none"
    rows = {
        "Data": escaped.code(declared.data.source),
        "Base model": escaped.code(declared.base_model.source),
        "Compared by": f"{declared.gates.metric}, margin {declared.gates.margin:g}; floors: {floors}",
        "Promotion": declared.promotion,
        "Runs": when,
        "Store": escaped.code(f"{settings.store}/{declared.name}"),
        "Steps are": "pods" if settings.cluster else "processes",
    }
    description = "\n\n".join(escaped.markdown(part, 5000) for part in re.split(r"\n\s*\n", declared.description))
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {declared.name}\n{description}\n\n| | |\n| --- | --- |\n{table}\n\n"
        "A step that a gate **refused** is skipped, and all after it: nothing is broken, the champion stays. "
        "A **failed** step says in its log what to do. Past windows: *Trigger → Backfill*, one run at a time.\n"
    )


def _manual(step: pipeline.Step, declared: Recipe, settings: Settings) -> str:
    """A task's page."""
    arguments = process.arguments(store=settings.store, run="RUN")
    by_hand = " ".join(process.command(step.module, f"{declared.name}.yaml", arguments, python="python"))
    return (
        f"**{step.name}** {step.summary}.\n\nBy hand:\n```\n{by_hand}\n```\n"
        "Ends as: *success* · *skipped*: refused by a gate · *failed*: bad input or a bug, or still away after "
        f"{settings.cluster.retries if settings.cluster else RETRIES} retries.\n"
    )


def doctor(recipes: Path) -> DAG:
    """The DAG that makes MLflow's aliases and Triton follow the ledgers of all recipes."""
    settings = Settings.from_environment(recipes)
    everything, _ = read(settings)
    made = DAG(
        "regraft_doctor",
        description="Makes MLflow's aliases and Triton follow the ledger",
        doc_md="Compares MLflow's aliases and what Triton serves with each recipe's ledger, and mends what differs. "
        "The ledger is the truth: this DAG never changes it, and does nothing where all is well.",
        schedule=CronTriggerTimetable(settings.doctor, timezone="UTC"),
        start_date=BEGINNING,
        catchup=False,
        max_active_runs=1,
        tags=["regraft"],
        user_defined_macros={"regraft_texts": {declared.name: text for declared, text, _ in everything}},
        default_args={
            "retries": 2,
            "retry_delay": timedelta(seconds=settings.retry_seconds),
            "on_failure_callback": airflow_step.notice("failed"),
        },
    )
    with made:
        for declared, *_ in everything:
            for server, step in pipeline.followers(declared.task).items():
                _operator(
                    settings,
                    step=step,
                    resources=step.resources,
                    task_id=f"{declared.name}.{server.lower()}",
                    module=step.follower,
                    recipe="{{ regraft_texts[" + repr(declared.name) + "] }}",
                    arguments=process.arguments(store=settings.store, repair=True),
                    environment={"REGRAFT_WHO": "airflow regraft_doctor"},
                    skips=False,
                    doc_md=f"`python -m {step.follower} --repair` for {declared.name}.",
                    execution_timeout=timedelta(minutes=step.timeout_minutes),
                )
    return made
