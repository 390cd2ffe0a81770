"""What one Airflow run is told: its run id, and what the form of a manual run changes in the recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

import yaml
from airflow.sdk import Param

from regraft import pipeline, recipe
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.parts import Recipe, Training
from regraft.runners import airflow_step
from regraft.runners.airflow_approval import approved_by


def run_of(declared: Recipe, dag_run: Any, params: Any) -> str:
    """The run id: what the form says, else what was due at the end of the data interval, as on every other runner.

    A run that an asset started is named by the minute it was due. Overrides make another run of the same window, named
    by their digest, so that trying something out never replaces what the window's own run found.
    """
    run = params.get("run")
    if not run and declared.schedule and declared.schedule.asset:
        run = dag_run.run_after.astimezone(UTC).strftime(pipeline.RUN_FORMAT)
    if not run:
        due, schedule = dag_run.run_after, declared.schedule
        if schedule and schedule.cron and dag_run.data_interval_end:
            # Just after clocks were set, Airflow gives a run by hand an interval that ends in the future.
            due = min(due, dag_run.data_interval_end)
        run = pipeline.run_id(declared, due)
    changed = {key: params[key] for key in ("window", "training") if params.get(key)}
    if changed and "." not in run:
        run = f"{run}.{sha256(changed)[:8]}"
    return str(run)


def recipe_for(text: str, params: Any, environment: Mapping[str, str] = os.environ) -> str:
    """The recipe that a step gets: as it was written, or with what the form changes in it.

    Raises:
        AirflowFailException: what the form says breaks the recipe's schema.
    """
    document = yaml.safe_load(text)
    if params.get("window"):
        document["data"]["window"] = params["window"]
    if params.get("training"):
        document["training"] = {**document.get("training", {}), **params["training"]}
    if document == yaml.safe_load(text):
        return text
    changed = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    try:
        mend = "start the run again with other parameters; the recipe's file holds"
        recipe.parse(changed, where="the recipe with the run's parameters", next=mend, environment=environment)
    except BadInput as error:
        airflow_step.useless(error)
    return changed


def macros(declared: Recipe, text: str, environment: Mapping[str, str]) -> dict[str, Callable[..., str]]:
    """What the templates of the tasks call."""
    return {
        "regraft_run": lambda dag_run, params: run_of(declared, dag_run, params),
        "regraft_recipe": lambda params: recipe_for(text, params, environment),
        "regraft_approved_by": approved_by,
    }


def params() -> dict[str, Param]:
    """The form of a manual run. The recipe's own schema checks the overrides before the run is there."""
    label = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}(\.[a-z0-9-]+)?$"
    return {
        "run": Param(
            None,
            type=["null", "string"],
            pattern=label,
            title="Run",
            description="End of the data window in UTC, such as 2026-11-24T03-00; the run that is due when empty",
        ),
        "window": Param(
            None,
            type=["null", "string"],
            pattern=r"^[0-9]{1,9}[hdw]$",
            title="Window",
            description="How far back rows count, such as 26w, instead of the recipe's data.window",
        ),
        "training": Param(
            {},
            **{
                **Training.model_json_schema(),
                "title": "Training",
                "description_md": 'Changes to the recipe\'s `training`, such as `{"epochs": 2, "learning_rate": 5e-4}`',
            },
        ),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description="Do the work again where the store has a result already; what a champion stands on is kept",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Stop before promote: see the verdict, register and serve nothing",
        ),
    }
