"""Makes MLflow follow the ledger: `python -m components.promote.follow --recipe R --store S --repair`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_random

from components.promote import describe
from regraft import tracking, verdicts
from regraft.errors import BadInput, NotFound, Temporary
from regraft.ledger import Entry, Ledger
from regraft.parts import Recipe
from regraft.step import follow_main
from regraft.store import Store

if TYPE_CHECKING:
    from regraft.gate import Verdict

ROUNDS = 100
"""Each other promoter can undo one round at most, by reading the ledger before and writing the alias after us."""


def differences(client: Any, ledger: Ledger, name: str, *, every: bool = False) -> list[str]:
    """Where MLflow differs from the ledger, a sentence each.

    Args:
        every: look at the descriptions of all versions in the ledger's newest entries, and of the challenger, too.
    """
    registered = _or_none(client.get_registered_model, name)
    if registered is None:
        return [f"MLflow has no registered model {name}"] if ledger.newest() else []
    sentences = _unlike(client, ledger, name, registered)
    for number, _ in _described(client, ledger, name, registered, every=every):
        sentences.append(f"description of version {number} is not the verdict on it")
    description = registered.description or ""
    # one that is right as of an earlier entry was edited by nobody: a rollout that just ended added the newer one
    if description != verdicts.beside(description, describe.model(ledger, name, until=verdicts.as_of(description))):
        sentences.append(f"description of {name} is not what the ledger says")
    return sentences


def _unlike(client: Any, ledger: Ledger, name: str, registered: Any) -> list[str]:
    """Where aliases and the champion's tags differ."""
    sentences = []
    aliases, head = _aliases(registered), ledger.head()
    if aliases.get("champion") != (head.version if head else None):
        sentences.append(f"alias champion is {_named(aliases.get('champion'))}, the ledger says {_version(head)}")
    if _decided(ledger, aliases):
        sentences.append(
            f"alias challenger is on version {aliases['challenger']}, which the ledger has decided on already"
        )
    if head is None:
        return sentences
    version = _model_version(client, name, head.version)
    if version is None:
        return [*sentences, f"MLflow has no version {head.version}, which the ledger says is champion"]
    for tag, value in _tags(head).items():
        if version.tags.get(tag) != value:
            is_now = version.tags.get(tag, "not set")
            sentences.append(f"tag {tag} of version {head.version} is {is_now}, the ledger says {value}")
    return sentences


def repair(client: Any, ledger: Ledger, name: str, *, every: bool = False, verdict: Verdict | None = None) -> None:
    """Sets aliases, tags and descriptions as the ledger says, until both agree: another promoter may be at it as well.

    A model that is not registered at all is left alone: there is nothing to set.

    Args:
        every: as in `differences`.
        verdict: on the champion, where promote came to it and has not left it in the store yet.

    Raises:
        BadInput: MLflow lacks the champion's version, or has another model under its number.
        Temporary: the ledger went on changing meanwhile.
    """
    attempts = Retrying(
        retry=retry_if_result(lambda agrees: not agrees), wait=wait_random(0, 0.2), stop=stop_after_attempt(ROUNDS)
    )
    try:
        attempts(_mended, client, ledger, name, every, verdict)
    except RetryError as error:
        raise Temporary(
            f"MLflow does not follow the ledger, asked {ROUNDS} times: {'; '.join(differences(client, ledger, name))}",
            where=tracking.address(),
            state="the ledger says who is champion, and Triton follows it",
            next=f"regraft doctor {name} --repair",
        ) from error


def _mended(client: Any, ledger: Ledger, name: str, every: bool, verdict: Verdict | None) -> bool:
    """Sets what differs, and says whether MLflow agrees with the ledger as it is then."""
    head, registered = ledger.head(), _or_none(client.get_registered_model, name)
    if registered is None:
        return True
    current = _aliases(registered)
    if head:
        _tag(client, name, head)
        if current.get("champion") != head.version:
            client.set_registered_model_alias(name, "champion", str(head.version))
    elif "champion" in current:
        client.delete_registered_model_alias(name, "champion")
    if _decided(ledger, current):
        client.delete_registered_model_alias(name, "challenger")
    for number, text in _described(client, ledger, name, registered, every=every, verdict=verdict):
        client.update_model_version(name, str(number), text)
    description = registered.description or ""
    if description != (text := verdicts.beside(description, describe.model(ledger, name))):
        client.update_registered_model(name, text)
    # descriptions are not read again: who writes an older history than another's reads a newer head here
    return ledger.head() == head and not _unlike(client, ledger, name, client.get_registered_model(name))


def _described(
    client: Any, ledger: Ledger, name: str, registered: Any, *, every: bool, verdict: Verdict | None = None
) -> Iterator[tuple[int, str]]:
    """The versions whose description is not the verdict on them, and what it should be."""
    head, challenger = ledger.head(), _aliases(registered).get("challenger")
    entries = ledger.latest(verdicts.ENTRIES) if every else [head] if head else []
    wanted = {entry.version: entry.model_dump(include={"model", "run", "evaluation"}) for entry in entries}
    if every and challenger is not None and ledger.version(challenger) is None:
        wanted[challenger] = {}
    for number, about in wanted.items():
        version = _model_version(client, name, number)
        if version is None or not (about := about or _challenger(ledger.store, version)):
            continue
        pages = _or_none(describe.pages, client, version.run_id)
        own = verdict if head and number == head.version else None
        text = describe.version(ledger.store, **about, pages=pages, verdict=own)
        if text is not None and (version.description or "") != text:
            yield number, text


def _challenger(store: Store, version: Any) -> dict[str, str]:
    """What an entry of the ledger would say of a version that is in none; nothing where its tags were taken away."""
    model, run = (version.tags.get(tag, "") for tag in (tracking.IDENTITY_TAG, "regraft.run"))
    with suppress(NotFound):
        return {"model": model, "run": run, "evaluation": store.pointer(run, "evaluate").identity or ""}
    return {}


def _decided(ledger: Ledger, aliases: Mapping[str, int]) -> bool:
    """Whether the version with the alias `challenger` is in the ledger, and so is a challenger no more."""
    return "challenger" in aliases and ledger.version(aliases["challenger"]) is not None


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
        "regraft.run": entry.run,
    }


def _aliases(registered: Any) -> dict[str, int]:
    return {alias: int(version) for alias, version in registered.aliases.items()}


def _model_version(client: Any, name: str, version: int) -> Any:
    return _or_none(client.get_model_version, name, str(version))


def _or_none(ask: Callable[..., Any], *arguments: Any) -> Any:
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
    name, metric = declared.name, declared.gates.metric

    def differing() -> list[str]:
        unlike = tracking.unlike(client, name, metric, any_metric=True)
        tags = (f"tag {tag} of the experiment {name} is not what regraft sets" for tag in unlike)
        return [*differences(client, ledger, name, every=True), *tags]

    with tracking.answering():
        before = left = differing()
        if before and repairing:
            repair(client, ledger, name, every=True)
            tracking.show(client, name, metric, any_metric=True)
            left = differing()
    return {"recipe": name, "mlflow": tracking.address(), "differences": before, "left": left}, not left


if __name__ == "__main__":
    follow_main("promote", follow=follow)
