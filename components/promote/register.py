"""Registration in MLflow: one version a finetune, however often and by how many it is tried.

MLflow gives each request a new version, so the version's tag `regraft.identity` is what counts: it is set in the
request that creates the version. Of twins that were created at once the lowest stays; whoever sees the others deletes
them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from components.promote import package
from regraft import pipeline
from regraft.errors import Temporary
from regraft.gate import Verdict
from regraft.step import Context
from regraft.store import Manifest
from regraft.tracking import IDENTITY_TAG, run_of


def register(context: Context, client: Any, *, model: Manifest, verdict: Verdict) -> int:
    """The registry version of a finetune, made if it is not there, and the alias `challenger` on it.

    Raises:
        Temporary: MLflow went away; the next try finds what this one made.
    """
    from mlflow.exceptions import MlflowException

    name = context.recipe.name
    try:
        _ensure_registered_model(client, context)
        version = version_of(client, name, model.identity)
        if version is None:
            run_id = run_of(client, name, model.identity)
            logged = package.logged_model(context, client, model=model, run_id=run_id)
            client.create_model_version(
                name,
                source=f"models:/{logged}",
                run_id=run_id,
                model_id=logged,
                tags=tags(context, model=model, verdict=verdict),
                description=verdict.sentence,
            )
            version = version_of(client, name, model.identity)
        assert version is not None  # noqa: S101  it was created above
        client.set_registered_model_alias(name, "challenger", str(version))
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            raise  # asking again would not help: a bug
        raise Temporary(
            f"MLflow did not take the registration: {str(error).splitlines()[0]}",
            state="the champion is unchanged",
            next="repeat the command: it finds what this one made",
        ) from error
    return version


def version_of(client: Any, name: str, identity: str) -> int | None:
    """The version that a finetune was registered as; twins of it are deleted."""
    from mlflow.exceptions import MlflowException

    found = client.search_model_versions(f"name = '{name}' and tags.`{IDENTITY_TAG}` = '{identity}'")
    versions = sorted(int(version.version) for version in found)
    for twin in versions[1:]:
        with suppress(MlflowException):  # the other twin's process deletes it as well
            client.delete_model_version(name, str(twin))
    return versions[0] if versions else None


def tags(context: Context, *, model: Manifest, verdict: Verdict) -> dict[str, str]:
    """What a person finds on the version's page."""
    return {
        IDENTITY_TAG: model.identity,
        "regraft.verdict": verdict.verdict,
        "regraft.run": context.run,
        "regraft.data": model.inputs["train"],
        "regraft.code": pipeline.code_digest(pipeline.step("finetune")),
        "regraft.evaluation": context.inputs["evaluation"],
    }


def withdraw(client: Any, name: str, version: int, verdict: Verdict) -> None:
    """Says on a registered version that it lost to a champion that came in between, and takes its alias."""
    client.set_model_version_tag(name, str(version), "regraft.verdict", verdict.verdict)
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get("challenger")) == str(version):
        client.delete_registered_model_alias(name, "challenger")


def _ensure_registered_model(client: Any, context: Context) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(context.recipe.name, description=context.recipe.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
