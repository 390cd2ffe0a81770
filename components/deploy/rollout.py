"""The rollout: trial, publish, load on every replica, check again, retire; and the way back from each point."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.deploy import export, replica, replicas, trial
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from components.deploy.replicas import Replicas
from components.deploy.repository import Repository
from regraft import settings
from regraft.errors import AlreadyExists, BadInput, NotFound, Refused, RegraftError, Temporary
from regraft.ledger import Entry, Ledger, Moved, of_promoted, whoami
from regraft.manifest import Manifest
from regraft.parts import Recipe
from regraft.store import Store


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a recipe's champion is served."""

    repository: Repository
    replicas: Replicas


def target(recipe: Recipe) -> Target:
    """The target that the environment names. Raises BadInput."""
    urls, folder = os.environ.get("REGRAFT_TRITON_URLS", ""), os.environ.get("REGRAFT_MODEL_REPOSITORY", "")
    for name, value, example in (
        ("REGRAFT_TRITON_URLS", urls, "127.0.0.1:8000"),
        ("REGRAFT_MODEL_REPOSITORY", folder, ".regraft/models"),
    ):
        if not value:
            raise BadInput(f"the environment variable {name} is not set", next=f"export {name}={example}")
    root = settings.model_repository(folder, here=True)
    return Target(repository=Repository(root, recipe.name), replicas=replicas.named(urls))


def champion(ledger: Ledger) -> Entry:
    """The ledger's head. Raises NotFound before the first promotion."""
    head = ledger.head()
    if head is None:
        where = ledger.store.where("ledger")
        raise NotFound("there is no champion to deploy yet", where=where, next="regraft run RECIPE")
    return head


def due(ledger: Ledger, promoted: Manifest, run: str) -> Entry:
    """What a run has to roll out: the ledger's head, or the challenger that becomes it once it serves.

    That is a challenger which there was no champion to compare with; or one that deploy took back before, and nothing
    has happened since: then it is tried again, since the recipe or the machine may have been mended. Such an entry is
    not in the ledger yet (`waits`), which has one only of what served.

    Args:
        promoted: the run's result of promote.

    Raises:
        Refused: another model became the first champion meanwhile, which the challenger was never compared with.
        NotFound: there is no champion, and this run has none to offer.
    """
    model = promoted.inputs.get("model", "")
    head, newest, known, opponent = ledger.head(), ledger.newest(), ledger.champion(model), ledger.opponent(model)
    about = of_promoted(promoted.inputs, run)
    reason = promoted.metrics.get("reason")
    if head is None and known is None and "version" in promoted.metrics:
        version, reason = promoted.metrics["version"], reason or f"promoted by run {run}"
    elif head and known and head.refused == known.version and opponent and opponent.model == head.model:
        version, reason = known.version, f"{known.reason} Its rollout was refused before, and tried again."
    elif head and known is None and reason:
        raise Refused(
            f"version {head.version} became champion before version {promoted.metrics['version']} was served",
            where=ledger.store.where("ledger"),
            state="nothing was changed",
            next=f"regraft run RECIPE --run {run}  (compares it with the new champion)",
        )
    else:
        return champion(ledger)
    sequence = newest.sequence + 1 if newest else 1
    who = whoami(approved_by=promoted.metrics.get("approved_by"))
    return Entry(
        sequence=sequence, kind="promote", version=version, reason=reason, who=who, at=datetime.now(UTC), **about
    )


def waits(ledger: Ledger, entry: Entry) -> bool:
    """Whether an entry is one that deploy has yet to write."""
    newest = ledger.newest()
    return entry.sequence > (newest.sequence if newest else 0)


def wanted(ledger: Ledger, repository: Repository, head: Entry) -> list[int]:
    """The versions that Triton should serve: the champion, and below it the one that a rollback would return to.

    A higher version cannot stay, since requests that name no version get the highest.
    """
    previous = ledger.previous()
    warm = previous is not None and previous.version < head.version and _same(repository, previous)
    return [previous.version, head.version] if warm and previous else [head.version]


def _same(repository: Repository, entry: Entry) -> bool:
    """Whether the version's directory holds that very model."""
    return (repository.serving(entry.version) or {}).get("model") == entry.model


def built_by_us(store: Store, repository: Repository, version: int) -> bool:
    """Whether a version directory is as a deploy built it: who may write the model repository could replace it whole,
    digest and all, but cannot write the store, which knows the digests of what was built."""
    serving = repository.serving(version)
    if not serving or not repository.whole(version):
        return False
    try:
        store.read(_built(serving["digest"]))
    except NotFound:
        return False
    return True


def _note(store: Store, repository: Repository, version: int) -> None:
    """Puts the digest of a version directory into the store."""
    serving = repository.serving(version) or {}
    about = {key: serving.get(key) for key in ("digest", "model", "version")}
    with suppress(AlreadyExists):
        store.create(_built(serving["digest"]), json.dumps(about, indent=1).encode())


def _built(digest: str) -> str:
    return f"built/{digest}.json"


def differences(ledger: Ledger, place: Target, head: Entry) -> list[str]:
    """Each way in which the repository or a replica differs from the ledger, as a sentence."""
    repository = place.repository
    if not _same(repository, head):
        return [f"the model repository does not hold version {head.version}"]
    versions = wanted(ledger, repository, head)
    sentences = []
    if repository.served() != versions:
        sentences.append(f"config.pbtxt serves versions {repository.served()} instead of {versions}")

    def compare(address: str) -> None:
        ready = replica.ready(address, repository.name)
        if ready != set(versions):
            sentences.append(f"{address} serves versions {sorted(ready)} instead of {versions}")

    replicas.each(place.replicas, compare)
    return sentences


def left_over(store: Store, place: Target) -> list[str]:
    """What Triton serves of this store though its ledger names no champion: a deploy died before it wrote the entry."""
    models = [(v, (place.repository.serving(v) or {}).get("model")) for v in place.repository.served()]
    ours = [version for version, model in models if model and store.manifest(f"finetune/{model}")]
    again = "regraft run RECIPE goes on with its rollout"
    return [f"Triton serves version {version}, which is not champion; {again}" for version in ours]


def clear(ledger: Ledger, place: Target) -> None:
    """Takes away what is left over, unless somebody became champion meanwhile."""
    with place.repository.lock():
        if ledger.head() is None and left_over(ledger.store, place):
            for version in place.repository.served():
                _restore(place, version, None, [], existed=False, replaced=None)


def roll_out(
    *,
    recipe: Recipe,
    ledger: Ledger,
    place: Target,
    entry: Entry,
    build: Callable[[str], Path],
    held: str | None,
    golden: Golden,
    scratch: Path,
    progress: Callable[[float, str], None],
) -> dict[str, Any]:
    """Makes every replica serve a champion. The version before it serves until every replica has answered rightly.

    A faster way of computing that does not hold its parity or the budget, in the trial or on a replica, is not a bad
    model: the next one is tried, with a warning.

    Args:
        entry: the ledger's head, or what is to become it (`due`): its entry is written when every replica serves it.
        build: gives the version directory for a precision, in a private place.
        held: precision of the version directory in the repository, where it is good: it has had its trial.

    Returns:
        What the trial measured, if there was one, the `precision` that is served, and `warnings`: what was tried and
        why it is not taken.

    Raises:
        NotServed: the version failed in every way; everything is as it was before.
        Temporary: a replica or the disk is gone, or the champion changed meanwhile; the old version serves on.
    """
    replicas.each(place.replicas, replica.reach)  # one that is not there must stop us before anything changes
    ways, warnings = export.precisions(recipe), list[str]()
    if held:
        ways = (held, *(ways[ways.index(held) + 1 :] if held in ways else ways))
    for way, slower in zip(ways, (*ways[1:], None), strict=True):
        built, measured = None, dict[str, Any]()
        try:
            if way != held:
                progress(0.3, f"build for {way}")
                built = build(way)
                progress(0.4, f"trial of {way}")
                measured = trial.hold(recipe=recipe, version=entry.version, built=built, golden=golden, folder=scratch)
            _serve(recipe, ledger, place, entry, built, golden, progress)
        except NotServed as error:
            if slower is None:
                raise
            warnings.append(f"not served in {way}, which is faster than {slower}: it {error.what}")
            print(f"deploy: warning: {warnings[-1]}", file=sys.stderr, flush=True)
        else:
            return {**measured, "precision": way, "warnings": warnings}
    raise AssertionError("the last way returns or raises")


def _serve(
    recipe: Recipe,
    ledger: Ledger,
    place: Target,
    entry: Entry,
    built: Path | None,
    golden: Golden,
    progress: Callable[[float, str], None],
) -> None:
    """Publishes what has had its trial, loads it on every replica, asks each, retires what is old. Raises as above."""
    repository = place.repository

    def serve(address: str) -> None:
        progress(0.8, f"load on {address}")
        try:
            replica.load(address, recipe.name, [entry.version])
            trial.agree(address, recipe=recipe, version=entry.version, golden=golden)
        except NotServed as error:
            error.what = f"{error.what} (on {address})"
            raise

    with repository.lock():
        _still_head(ledger, entry)
        repository.clean()
        before, served = repository.config(), repository.served()
        existed = repository.serving(entry.version) is not None
        if served == [entry.version] and waits(ledger, entry):  # left by a deploy that died before it wrote the entry
            before, served, existed = None, [], False
        replaced = None
        try:
            progress(0.7, "publish")
            if built is not None:
                replaced = repository.publish(built, entry.version)
                _note(ledger.store, repository, entry.version)
            if not repository.whole(entry.version):
                raise NotServed("does not load: its directory in the model repository is not as it was built")
            repository.configure(export.config(recipe, [*{*served, entry.version}]))
            replicas.each(place.replicas, serve)
            entry = _written(ledger, entry)
        except BaseException:
            _restore(place, entry.version, before, served, existed=existed, replaced=replaced)
            raise
        progress(0.97, "retire")
        versions = wanted(ledger, repository, entry)
        repository.configure(export.config(recipe, versions))
        replicas.each(place.replicas, lambda address: _retire(address, recipe.name, versions))
        _remove_old(ledger, repository, versions)
        repository.clean()
        _still_head(ledger, entry)


def _retire(address: str, name: str, versions: list[int]) -> None:
    """Unloads what is not wanted any more. That cannot be the new champion's fault: it serves already."""
    try:
        replica.load(address, name, versions)
    except NotServed as error:
        raise Temporary(
            f"old versions could not be retired: {error.what}",
            where=address,
            state=f"version {versions[-1]} is served",
            next="repeat the command: it goes on",
        ) from error


def _written(ledger: Ledger, entry: Entry) -> Entry:
    """The entry as it stands in the ledger, written now if it waited. Raises Temporary if another was first."""
    _still_head(ledger, entry)
    if not waits(ledger, entry):
        return entry
    try:
        return ledger.append(ledger.head(), **entry.model_dump(exclude={"sequence", "at", "refused"}))
    except Moved:
        _still_head(ledger, entry)
        raise


def _still_head(ledger: Ledger, entry: Entry) -> None:
    """Raises Temporary if the ledger has gone on since the entry was its head, or was to become it."""
    newest = ledger.newest()
    if (
        newest
        and newest.sequence >= entry.sequence
        and (newest.sequence, newest.model) != (entry.sequence, entry.model)
    ):
        raise Temporary(
            f"the champion changed from version {entry.version} to {newest.version} during the rollout",
            where=ledger.store.where("ledger"),
            next="repeat the command: it deploys the new champion",
        )


def _restore(
    place: Target, version: int, before: str | None, served: list[int], *, existed: bool, replaced: Path | None
) -> None:
    """Brings repository and replicas back to what they were; a replica that is gone reads that when it is back."""
    repository = place.repository
    if replaced is not None:
        repository.put_back(replaced, version)
    if before is not None:
        repository.configure(before)
    else:
        (repository.folder / "config.pbtxt").unlink(missing_ok=True)
    with suppress(RegraftError):
        for address in place.replicas.find():
            with suppress(RegraftError):
                if served:
                    replica.load(address, repository.name, served)
                else:
                    replica.unload(address, repository.name)
    if not existed:
        repository.remove(version)
    repository.clean()
    with suppress(OSError):
        repository.folder.rmdir()  # only when nothing is in it


def _remove_old(ledger: Ledger, repository: Repository, versions: list[int]) -> None:
    """Removes the directories of versions that neither serve nor are the last champion, for a quick roll-forward."""
    last = ledger.replaced()
    for version in repository.versions():
        if version not in versions and not (last and version == last.version):
            repository.remove(version)


def take_back(ledger: Ledger, entry: Entry, served: list[int], reason: str) -> Entry | None:
    """Writes into the ledger that a champion could not be rolled out, and that the one that serves is champion again.

    Args:
        served: the versions that Triton serves.

    Returns:
        The rollback's entry; where nothing serves and there is no earlier champion, that of the withdrawal; else None.

    Raises:
        Moved: the champion has changed meanwhile.
    """
    reason = f"rollout of version {entry.version} failed: {reason}"
    for version in sorted(served, reverse=True):
        earlier = ledger.version(version)
        if version != entry.version and earlier is not None:
            return ledger.again(entry, earlier, kind="rollback", reason=reason, refused=entry.version)
    if served or ledger.previous() is not None:
        return None
    none = f"{reason}; no earlier champion can serve, so there is none"
    return ledger.again(entry, entry, kind="withdraw", reason=none)
