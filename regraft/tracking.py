"""The MLflow server: the one place that connects to it, and the one rule by which a run is found again.

A finetune has one MLflow run, found by its tag `regraft.identity`: a retry goes on with it, evaluate adds to it,
promote registers from it. MLflow is imported inside the functions, so only the components that use them need it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    with answering():
        client.search_experiments(max_results=1)
    return client


@contextmanager
def answering() -> Iterator[None]:
    """Turns what MLflow raises inside into our errors; a request that MLflow finds wrong stays what it is, a bug.

    Raises:
        BadInput: the server refuses the credentials.
        Temporary: the server is away or failed, which includes BAD_REQUEST: so it names what its database could not do
            since two clients wrote the same row. What it took before stands: a repeat finds it by its tag.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        code = getattr(error, "error_code", "")
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise BadInput(
                "the MLflow server refuses the credentials",
                where=address(),
                next="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            ) from error
        if code == "INVALID_PARAMETER_VALUE":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise Temporary(
            f"the MLflow server does not answer as it should: {reason}",
            where=address(),
            state="what it took before stands, and the ledger says who is champion",
            next="regraft up, then repeat the command: it goes on from there",
        ) from error


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
