"""Makes MLflow follow the ledger: `python -m components.promote.follow --recipe R --store S --repair`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_random

from regraft import tracking
from regraft.errors import BadInput, Temporary
from regraft.ledger import Entry, Ledger
from regraft.recipe import Recipe
from regraft.step import follow_main
from regraft.store import Store

ROUNDS = 100
"""Each other promoter can undo one round at most, by reading the ledger before and writing the alias after us."""


def differences(client: Any, ledger: Ledger, name: str) -> list[str]:
    """Where MLflow differs from the ledger, a sentence each."""
    entries = ledger.entries()
    aliases = _aliases(client, name)
    if aliases is None:
        return [f"MLflow has no registered model {name}"] if entries else []
    found = []
    head = ledger.head()
    if aliases.get("champion") != (head.version if head else None):
        found.append(f"alias champion is {_named(aliases.get('champion'))}, the ledger says {_version(head)}")
    if aliases.get("challenger") in {entry.version for entry in entries}:
        found.append(f"alias challenger is on version {aliases['challenger']}, which the ledger has decided on already")
    if head is None:
        return found
    version = _model_version(client, name, head.version)
    if version is None:
        return [*found, f"MLflow has no version {head.version}, which the ledger says is champion"]
    for tag, value in _tags(head).items():
        if version.tags.get(tag) != value:
            is_now = version.tags.get(tag, "not set")
            found.append(f"tag {tag} of version {head.version} is {is_now}, the ledger says {value}")
    return found


def repair(client: Any, ledger: Ledger, name: str) -> None:
    """Sets aliases and tags as the ledger says, until both agree: another promoter may be at it as well.

    A model that is not registered at all is left alone: there is nothing to set.

    Raises:
        BadInput: MLflow lacks the champion's version, or has another model under its number.
        Temporary: the ledger went on changing meanwhile.
    """
    attempts = Retrying(
        retry=retry_if_result(lambda agrees: not agrees), wait=wait_random(0, 0.2), stop=stop_after_attempt(ROUNDS)
    )
    try:
        attempts(_mended, client, ledger, name)
    except RetryError as error:
        raise Temporary(
            f"MLflow does not follow the ledger, asked {ROUNDS} times: {'; '.join(differences(client, ledger, name))}",
            where=tracking.address(),
            state="the ledger says who is champion, and Triton follows it",
            next=f"regraft doctor {name} --repair",
        ) from error


def _mended(client: Any, ledger: Ledger, name: str) -> bool:
    """Sets what differs, and says whether MLflow agrees with the ledger as it is then."""
    entries, head = ledger.entries(), ledger.head()
    current = _aliases(client, name)
    if current is None:
        return True
    if head:
        _tag(client, name, head)
        if current.get("champion") != head.version:
            client.set_registered_model_alias(name, "champion", str(head.version))
    elif "champion" in current:
        client.delete_registered_model_alias(name, "champion")
    if current.get("challenger") in {entry.version for entry in entries}:
        client.delete_registered_model_alias(name, "challenger")
    return ledger.head() == head and not differences(client, ledger, name)


def _tag(client: Any, name: str, head: Entry) -> None:
    """Sets the tags of the champion's version, once the run it came from proves that it is that model."""
    version = _model_version(client, name, head.version)
    if version is None:
        raise _lost(name, f"MLflow has no version {head.version}, which the ledger says is champion")
    missing = {tag: value for tag, value in _tags(head).items() if version.tags.get(tag) != value}
    if tracking.IDENTITY_TAG in missing:
        run = _or_none(client.get_run, version.run_id)
        made = run.data.tags.get(tracking.IDENTITY_TAG) if run else None
        if made != head.model:
            what = f"version {head.version} in MLflow is another model than the ledger's: {(made or 'unknown')[:12]}"
            raise _lost(name, f"{what}, not {head.model[:12]}")
    for tag, value in missing.items():
        client.set_model_version_tag(name, str(head.version), tag, value)


def _lost(name: str, what: str) -> BadInput:
    return BadInput(
        what,
        where=f"{tracking.address()}/#/models/{name}",
        state="the ledger says who is champion, and Triton serves on",
        next="restore MLflow's database from its backup",
    )


def _tags(entry: Entry) -> dict[str, str]:
    """What the version of a champion must say of itself."""
    return {
        tracking.IDENTITY_TAG: entry.model,
        "regraft.verdict": "promote",
        "regraft.evaluation": entry.evaluation,
    }


def _aliases(client: Any, name: str) -> dict[str, int] | None:
    found = _or_none(client.get_registered_model, name)
    return None if found is None else {alias: int(version) for alias, version in found.aliases.items()}


def _model_version(client: Any, name: str, version: int) -> Any:
    return _or_none(client.get_model_version, name, str(version))


def _or_none(ask: Callable[..., Any], *arguments: str) -> Any:
    """What MLflow answers, or None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask(*arguments)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _named(version: int | None) -> str:
    return "not set" if version is None else f"on version {version}"


def _version(entry: Entry | None) -> str:
    return f"version {entry.version}" if entry else "there is no champion"


def follow(declared: Recipe, store: Store, repairing: bool) -> tuple[dict[str, Any], bool]:
    """What differs and, after a repair, what is left of it; and whether MLflow agrees."""
    ledger, client = Ledger(store), tracking.connect()
    with tracking.answering():
        found = differences(client, ledger, declared.name)
        if found and repairing:
            repair(client, ledger, declared.name)
        left = differences(client, ledger, declared.name) if repairing else found
    return {"recipe": declared.name, "mlflow": tracking.address(), "differences": found, "left": left}, not left


if __name__ == "__main__":
    follow_main("promote", follow=follow)
