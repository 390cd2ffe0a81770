"""Registration in MLflow: one version a finetune, however often and by how many it is tried.

MLflow gives each request a new version, so a version is found by its tag `regraft.identity`, which is set in the
request that creates it. Anybody who may write to MLflow can set a tag, so once the store knows which logged model is
proven, only a version of that one counts; a store that knows none, such as another runner's, takes the version that is
there. Of twins that were created at once the lowest stays; whoever sees the others deletes them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from components.promote import describe, package
from regraft import verdicts
from regraft.errors import BadInput
from regraft.gate import Verdict
from regraft.manifest import Manifest
from regraft.step import Work
from regraft.store import Store
from regraft.tracking import IDENTITY_TAG, address, run_of


def register(context: Work, client: Any, *, model: Manifest, verdict: Verdict) -> int:
    """The registry version of a finetune, made if it is not there, with the verdict's tags and the alias `challenger`.

    Raises:
        BadInput: MLflow counts anew, so that the number belongs to another model in the ledger.
    """
    name = context.recipe.name
    _ensure_registered_model(client, context)
    version = version_of(client, context.store, model)
    if version is None:
        run_id = run_of(client, name, model.identity, context.run)
        logged = package.logged_model(context, client, model=model, run_id=run_id)
        if describe.CARD in model.outputs:
            folder, _, _ = describe.CARD.rpartition("/")
            client.log_artifact(run_id, str(context.fetch(model, describe.CARD) / describe.CARD), folder)
        client.create_model_version(
            name,
            source=f"models:/{logged}",
            run_id=run_id,
            model_id=logged,
            tags=tags(context, model=model, verdict=verdict),
            description=_description(context, client, run_id, model=model, verdict=verdict),
        )
        version = version_of(client, context.store, model)
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


def judged(context: Work, client: Any, version: int, *, model: Manifest, verdict: Verdict) -> None:
    """Writes the newest verdict on a registered version."""
    name = context.recipe.name
    for tag, value in tags(context, model=model, verdict=verdict).items():
        client.set_model_version_tag(name, str(version), tag, value)
    run_id = client.get_model_version(name, str(version)).run_id
    text = _description(context, client, run_id, model=model, verdict=verdict)
    client.update_model_version(name, str(version), text)


def _description(context: Work, client: Any, run_id: str, *, model: Manifest, verdict: Verdict) -> str | None:
    about = {"model": model.identity, "run": context.run, "evaluation": context.inputs["evaluation"]}
    pages = describe.pages(client, run_id)
    return describe.version(context.store, **about, pages=pages, verdict=verdict)


def version_of(client: Any, store: Store, model: Manifest) -> int | None:
    """The version that a finetune was registered as; twins of it are deleted, and any other's tag is taken off."""
    from mlflow.exceptions import MlflowException

    name, proven = store.recipe, package.proven(store, model)
    registered = client.search_model_versions(f"name = '{name}' and tags.`{IDENTITY_TAG}` = '{model.identity}'")
    versions = list[int]()
    for version in sorted(registered, key=lambda each: int(each.version)):
        if proven is None or version.source == f"models:/{proven.logged_model}":
            versions.append(int(version.version))
        else:
            client.delete_model_version_tag(name, str(version.version), IDENTITY_TAG)
    for twin in versions[1:]:
        with suppress(MlflowException):  # the other twin's process deletes it as well
            client.delete_model_version(name, str(twin))
    return versions[0] if versions else None


def tags(context: Work, *, model: Manifest, verdict: Verdict) -> dict[str, str]:
    """What a version is searched by; what else there is to say of it is in its description."""
    return {IDENTITY_TAG: model.identity, "regraft.verdict": verdict.verdict, "regraft.run": context.run}


def withdraw(context: Work, client: Any, version: int, *, model: Manifest, verdict: Verdict) -> None:
    """Says on a registered version that it lost to a champion that came in between, and takes its alias."""
    judged(context, client, version, model=model, verdict=verdict)
    aliases = client.get_registered_model(context.recipe.name).aliases
    if str(aliases.get("challenger")) == str(version):
        client.delete_registered_model_alias(context.recipe.name, "challenger")


def _ensure_registered_model(client: Any, context: Work) -> None:
    from mlflow.exceptions import MlflowException

    try:
        description = verdicts.beside(context.recipe.description, describe.model(context.ledger, context.recipe.name))
        client.create_registered_model(context.recipe.name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
