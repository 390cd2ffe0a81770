"""MLflow's pages: where its UI shows a run, how it opens an experiment, and the one rule by which a run is found.

Without MLflow's client, for whoever only links to it.
"""

from __future__ import annotations

import json
from typing import Any

IDENTITY_TAG = "regraft.identity"

VIEW = "regraft"
"""Name of the view of the experiment's runs that `runs_page` opens. MLflow has none that opens by itself."""

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Of the experiment, where MLflow keeps the view."""


def experiment_tags(metric: str) -> dict[str, str]:
    """The experiment's kind, so that MLflow's UI opens it at training runs, not at traces; and the columns that matter.

    MLflow 3.17 asks the browser first, whether it was last used for generative AI or for training, so `runs_page` says
    it as well.

    Args:
        metric: the recipe's `gates.metric`.
    """
    metrics = (f"holdout.{metric}", f"champion.{metric}", "difference.point")
    columns = ["tags.`regraft.verdict`", *(f"metrics.`{name}`" for name in metrics), "attributes.`Models`"]
    view = {"selectedColumns": columns, "orderByKey": "attributes.start_time", "orderByAsc": False}
    return {"mlflow.experimentKind": "custom_model_development", VIEW_TAG: json.dumps(view)}


def search(experiment_id: str, identity: str) -> dict[str, Any]:
    """The one rule by which the run of a finetune is found: of several with its identity the first counts."""
    return {
        "experiment_ids": [experiment_id],
        "filter": f"tags.`{IDENTITY_TAG}` = '{identity}'",
        "order_by": ["attributes.start_time ASC"],
        "max_results": 1,
    }


def run_page(experiment_id: str, run_id: str) -> str:
    """Where MLflow's UI shows a run, from its root."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def runs_page(experiment_id: str) -> str:
    """Where MLflow's UI shows the runs of an experiment, with the columns that matter, from its root."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
