"""The MLflow server: the one place that connects to it, and the one rule by which a run is found again.

A finetune has one MLflow run, found by its tag `regraft.identity`: a retry goes on with it, evaluate adds to it,
promote registers from it. MLflow is imported inside the functions, so only the components that use them need it.
"""

from __future__ import annotations

import os
import re
from typing import Any

from regraft.errors import BadInput, Temporary

IDENTITY_TAG = "regraft.identity"


def connect() -> Any:
    """A client of the MLflow server at MLFLOW_TRACKING_URI that has just answered.

    Raises:
        BadInput: no server is configured, or it refuses the credentials.
        Temporary: the server does not answer; it was asked three times.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise BadInput(
            "no MLflow server is configured",
            where="MLFLOW_TRACKING_URI",
            next="regraft up, or export MLFLOW_TRACKING_URI=http://HOST:5000",
        )
    # Before the import: MLflow's own defaults wait for minutes, and load pickled models.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow
    from mlflow.exceptions import MlflowException, RestException

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    try:
        client.search_experiments(max_results=1)
    except RestException as error:
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise BadInput(
                "the MLflow server refuses the credentials",
                where=uri,
                next="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            ) from error
        raise _away(uri, error) from error
    except MlflowException as error:
        raise _away(uri, error) from error
    return client


def _away(uri: str, error: Exception) -> Temporary:
    reason = str(error).splitlines()[0][:200]
    return Temporary(
        f"the MLflow server does not answer: {reason}", where=uri, next="regraft up, then repeat the command"
    )


def run_of(client: Any, recipe: str, identity: str) -> str:
    """Id of the MLflow run of a finetune, in the experiment named after the recipe; made if it is not there."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(recipe)
    if experiment is None:
        try:
            experiment_id = client.create_experiment(recipe)
        except MlflowException:  # another process was first
            experiment_id = client.get_experiment_by_name(recipe).experiment_id
    else:
        experiment_id = experiment.experiment_id
    found = client.search_runs(
        [experiment_id], f"tags.`{IDENTITY_TAG}` = '{identity}'", order_by=["attributes.start_time ASC"], max_results=1
    )
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, tags={IDENTITY_TAG: identity}, run_name=identity[:12]).info.run_id)


def address() -> str:
    """URL of the server, without what may be secret in it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return re.sub(r"//[^/@]*@", "//", uri)
