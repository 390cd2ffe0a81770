"""The MLflow server: the one place that connects to it.

A finetune has one MLflow run, found as `pages` says: a retry goes on with it, evaluate adds to it, promote registers
from it. MLflow is imported inside the functions, so only the components that use them need it.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from regraft import pages, settings, sources
from regraft.errors import BadInput, Temporary
from regraft.pages import IDENTITY_TAG as IDENTITY_TAG


def connect() -> Any:
    """A client of the MLflow server at MLFLOW_TRACKING_URI that has just answered.

    Raises:
        BadInput: no server is configured, something else answers at its address, or it refuses the credentials.
        Temporary: the server does not answer; it was asked three times.
    """
    uri = settings.mlflow()
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
    try:
        with answering():
            client.search_experiments(max_results=1)
    except Temporary as error:
        if other := _other_server(uri):
            raise BadInput(
                f"no MLflow server answers at {address()}: {other}",
                where="MLFLOW_TRACKING_URI",
                next="export MLFLOW_TRACKING_URI=http://HOST:5000, with the prefix behind the port where it has one",
            ) from error
        raise
    return client


def _other_server(uri: str) -> str | None:
    """What shows that something else than MLflow answers; None where it is MLflow, or away for now."""
    try:
        with urllib.request.urlopen(f"{uri}/version", timeout=10) as answer:  # noqa: S310  settings.mlflow has looked
            said = answer.read(80)
    except urllib.error.HTTPError as error:
        # 401 and 403 are about credentials, 407 about a proxy; the others may pass
        if error.code in (401, 403, 407, 408, 429) or (error.code >= 500 and error.code not in (501, 505)):
            return None
        return f"/version answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return f"TLS fails: {reason}"
        if isinstance(reason, http.client.BadStatusLine) and not isinstance(reason, ConnectionError):
            return "it does not speak HTTP"
        return None
    return None if re.match(rb"\d+\.\d+", said) else f"/version answers {said[:40].decode(errors='replace')!r}"


@contextmanager
def answering() -> Iterator[None]:
    """Turns what MLflow raises inside into our errors; a request that MLflow finds wrong stays what it is, a bug.

    Raises:
        BadInput: the server refuses the credentials, or no request can hold them.
        Temporary: the server is away or failed, which includes BAD_REQUEST: so it names what its database could not do
            since two clients wrote the same row. What it took before stands: a repeat finds it by its tag.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import InvalidHeader, InvalidURL, RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        if any(isinstance(e, UnicodeError | InvalidHeader | InvalidURL) for e in (error, error.__context__)):
            raise BadInput(
                "no request to the MLflow server can be made: its address, or the user's name, password or token, has"
                " letters that HTTP does not send, such as a line's end",
                where="MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN",
                next="export both anew, without what is around them",
            ) from None  # the error has the token in it
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


def prepare(client: Any, recipe: str, metric: str) -> None:
    """Looks before the work at what it will need afterwards: the recipe's name in MLflow, and room for artifacts.

    Args:
        metric: the recipe's `gates.metric`, which the experiment is to show.

    Raises:
        BadInput: the name is a prompt's, or artifacts cannot be sent from here.
        Temporary: MLflow, or where it keeps artifacts, is away.
    """
    with answering():
        _no_prompt(client, recipe)
        experiment = client.get_experiment(experiment_of(client, recipe))
        _takes_artifacts(str(experiment.artifact_location), recipe)
        show(client, recipe, metric)


def _no_prompt(client: Any, recipe: str) -> None:
    # by a search: of a registered model's tags the server shows all but the one that tells
    if client.search_registered_models(f"name = '{recipe}' AND tag.`mlflow.prompt.is_prompt` = 'true'"):
        raise BadInput(
            f"the name {recipe} is taken by a prompt in MLflow's registry: versions of the model would become its",
            where=f"{address()}/#/prompts/{recipe}",
            state="nothing was added to it",
            next="give the recipe another name, or delete the prompt in MLflow",
        )


def _takes_artifacts(location: str, recipe: str) -> None:
    """Asks where the experiment keeps its artifacts what is there. Raises BadInput, Temporary."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    what, scheme = "", urlsplit(location).scheme
    if scheme in ("", "file"):
        what = _not_on_this_machine(location)
    else:
        try:
            get_artifact_repository(location).list_artifacts()
        except Exception as error:  # whatever the clients of all clouds raise, and where they are not installed
            if sources.lasting(error, where=location) or isinstance(error, ImportError):
                what = f"{type(error).__name__}: {error}"
            elif scheme == "mlflow-artifacts" and _serves_no_artifacts():
                what = "the server was started with --no-serve-artifacts"
            elif scheme in ("mlflow-artifacts", "http", "https") or sources.unreachable(error):
                raise Temporary(
                    f"MLflow's artifacts cannot be reached: {str(error).partition(chr(10))[0][:200]}",
                    where=location,
                    next="repeat the command",
                ) from error
            else:
                what = f"{type(error).__name__}: {str(error)[:200]}"
    if what:
        raise BadInput(
            f"artifacts of MLflow's experiment {recipe} cannot be sent from here: {what}",
            where=settings.public(location),
            state="nothing was trained or registered",
            next="start the server with --serve-artifacts --artifacts-destination "
            f"{settings.public(location)}, without --default-artifact-root; an experiment keeps its place, so rename"
            f" {recipe} in MLflow then. Or give the steps the packages and credentials of that place",
        )


def _serves_no_artifacts() -> bool:
    """Whether the server says that it was told to serve none; MLflow's client keeps that for itself, and retries."""
    url = f"{settings.mlflow()}/api/2.0/mlflow-artifacts/artifacts"
    request = urllib.request.Request(url, headers=settings.mlflow_login())  # noqa: S310  settings.mlflow has looked
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        return b"serve-artifacts" in error.read(1000)
    except OSError:
        pass
    return False


def _not_on_this_machine(location: str) -> str:
    """Why files cannot be put into a folder that the server named, as seen from here; empty where they can."""
    host = urlsplit(settings.mlflow()).hostname
    if host not in ("localhost", "127.0.0.1", "::1"):
        return f"it is a folder on the server's machine, {host}"
    try:
        Path(url2pathname(urlsplit(location).path)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"it is a folder, and cannot be written here: {error.strerror}"
    return ""


def experiment_of(client: Any, recipe: str) -> str:
    """Id of the experiment named after the recipe: made if it is not there, restored if somebody deleted it."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(recipe)
    if experiment is None:
        try:
            return str(client.create_experiment(recipe))
        except MlflowException:  # another process was first
            experiment = client.get_experiment_by_name(recipe)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        try:
            client.restore_experiment(experiment.experiment_id)
        except MlflowException:  # another process was first, or it is really gone
            if client.get_experiment(experiment.experiment_id).lifecycle_stage == "deleted":
                raise
    return str(experiment.experiment_id)


def unlike(client: Any, recipe: str, metric: str, *, any_metric: bool = False) -> dict[str, str]:
    """Those of `pages.experiment_tags` that the recipe's experiment lacks; none where there is no experiment.

    Args:
        any_metric: a view of another metric will do: that of a run with a newer recipe than the champion's.
    """
    experiment = client.get_experiment_by_name(recipe)
    wanted = pages.experiment_tags(metric) if experiment else {}
    good = {pages.VIEW_TAG} & experiment.tags.keys() if experiment and any_metric else set()
    return {key: value for key, value in wanted.items() if key not in good and experiment.tags.get(key) != value}


def show(client: Any, recipe: str, metric: str, *, any_metric: bool = False) -> None:
    """Makes MLflow's UI open the recipe's experiment as `pages.experiment_tags` says. The arguments are `unlike`'s."""
    for key, value in unlike(client, recipe, metric, any_metric=any_metric).items():
        client.set_experiment_tag(client.get_experiment_by_name(recipe).experiment_id, key, value)


def run_of(client: Any, recipe: str, identity: str, run: str) -> str:
    """Id of the MLflow run of a finetune, in the experiment named after the recipe; made if it is not there.

    Args:
        run: the run id, which names it.
    """
    experiment_id = experiment_of(client, recipe)
    asked = pages.search(experiment_id, identity)
    runs = client.search_runs(asked["experiment_ids"], asked["filter"], order_by=asked["order_by"], max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    return str(client.create_run(experiment_id, tags={IDENTITY_TAG: identity}, run_name=run).info.run_id)


def address() -> str:
    """URL of the server, without what may be secret in it."""
    return settings.public(os.environ.get("MLFLOW_TRACKING_URI", "").strip())
