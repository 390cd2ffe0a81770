"""Registration in MLflow: one version a finetune, however often and by how many it is tried.

MLflow gives each request a new version, so the version's tag `regraft.identity` is what counts: it is set in the
request that creates the version. Of twins that were created at once the lowest stays; whoever sees the others deletes
them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from components.promote import package
from regraft.errors import BadInput
from regraft.gate import Verdict
from regraft.step import Context
from regraft.store import Manifest
from regraft.tracking import IDENTITY_TAG, address, run_of


def register(context: Context, client: Any, *, model: Manifest, verdict: Verdict) -> int:
    """The registry version of a finetune, made if it is not there, with the verdict's tags and the alias `challenger`.

    Raises:
        BadInput: MLflow counts anew, so that the number belongs to another model in the ledger.
    """
    name = context.recipe.name
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
    else:
        judged(context, client, version, model=model, verdict=verdict)
    assert version is not None  # noqa: S101  it was created above
    taken = context.ledger.version(version)
    if taken and taken.model != model.identity:
        raise BadInput(
            f"MLflow gave version {version}, which in the ledger is another model: its registry was lost or replaced",
            where=f"{address()}/#/models/{name}",
            state="the champion is unchanged",
            next="restore MLflow's database from its backup",
        )
    client.set_registered_model_alias(name, "challenger", str(version))
    return version


def judged(context: Context, client: Any, version: int, *, model: Manifest, verdict: Verdict) -> None:
    """Writes the newest verdict on a registered version."""
    for tag, value in tags(context, model=model, verdict=verdict).items():
        client.set_model_version_tag(context.recipe.name, str(version), tag, value)
    client.update_model_version(context.recipe.name, str(version), verdict.sentence)


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
        "regraft.code": model.document["code"],
        "regraft.evaluation": context.inputs["evaluation"],
    }


def withdraw(context: Context, client: Any, version: int, *, model: Manifest, verdict: Verdict) -> None:
    """Says on a registered version that it lost to a champion that came in between, and takes its alias."""
    judged(context, client, version, model=model, verdict=verdict)
    aliases = client.get_registered_model(context.recipe.name).aliases
    if str(aliases.get("challenger")) == str(version):
        client.delete_registered_model_alias(context.recipe.name, "challenger")


def _ensure_registered_model(client: Any, context: Context) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(context.recipe.name, description=context.recipe.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
