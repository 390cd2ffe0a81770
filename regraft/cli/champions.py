"""Commands on champions: history, promote, rollback, doctor."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.app import DEFAULT_STORE, Json, Name, StoreUrl, acts, app, console, recipes_in, show, store_of

if TYPE_CHECKING:
    from regraft.ledger import Entry
    from regraft.manifest import Manifest
    from regraft.store import Store

COLOURS = {"promote": "green", "rollback": "yellow", "withdraw": "red"}
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the ledger.")]


@app.command(epilog="Example: `regraft history movie-sentiment`")
@acts
def history(name: Name, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Shows the ledger: every champion there was, when, why and by whom, and which were taken back."""
    from rich.markup import escape
    from rich.table import Table

    from regraft.ledger import Ledger

    entries = Ledger(store_of(store, name)).entries()
    table = Table("", "version", "", "at", "who", "run", "reason", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for entry in entries:
        kind = f"[{COLOURS[entry.kind]}]{entry.kind}[/]"
        at = entry.at.strftime("%Y-%m-%d %H:%M")
        table.add_row(
            str(entry.sequence), str(entry.version), kind, at, escape(entry.who), entry.run, escape(entry.reason)
        )
    show([json.loads(entry.model_dump_json()) for entry in entries], table, as_json=as_json)


@app.command(epilog="Example: `regraft rollback movie-sentiment --reason 'complaints about long reviews'`")
@acts
def rollback(name: Name, store: StoreUrl = DEFAULT_STORE, reason: Reason = None, as_json: Json = False) -> None:
    """Makes the previous champion champion again, in the ledger, in MLflow and on Triton; until a promotion."""
    from regraft.errors import BadInput
    from regraft.ledger import Ledger

    recipe_store = store_of(store, name)
    ledger = Ledger(recipe_store)
    head, previous = ledger.head(), ledger.previous()
    if head is None or previous is None:
        raise BadInput(
            f"{name} has no champion before {f'version {head.version}' if head else 'this: it has none'}",
            where=recipe_store.where("ledger"),
            state="nothing was changed",
            next=f"regraft history {name}",
        )
    _unchanged(recipe_store, previous)
    reason = reason or f"rolled back from version {head.version} by hand"
    entry = ledger.again(head, previous, kind="rollback", reason=reason)
    _followed(recipe_store, entry, as_json=as_json)


@app.command(epilog="Example: `regraft promote movie-sentiment --version 3`")
@acts
def promote(
    name: Name,
    version: Annotated[int, typer.Option("--version", help="Registered version to make champion.", min=1)],
    store: StoreUrl = DEFAULT_STORE,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Makes a registered version champion: one that waits, for approval or to be served, or an earlier champion."""
    from datetime import UTC, datetime

    from regraft import approval
    from regraft.ledger import Entry, Ledger, of_promoted, whoami

    recipe_store = store_of(store, name)
    ledger = Ledger(recipe_store)
    head = ledger.head()
    if head and head.version == version:
        typer.echo(f"version {version} is the champion already; making MLflow and Triton follow", err=True)
        _followed(recipe_store, head, as_json=as_json)
        return
    earlier = ledger.version(version)
    about: dict[str, Any]
    if earlier:
        _unchanged(recipe_store, earlier)
        about = earlier.model_of
    else:
        waiting = _waiting(recipe_store, name, version, head)
        about = of_promoted(waiting.inputs, str(waiting.run))
        if waiting.refused_by == "approval":
            record = {key: about[key] for key in ("model", "evaluation", "run")}
            approval.approve(recipe_store, **record, version=version, reason=reason)
    reason = reason or ("promoted again by hand" if earlier else "approved by hand")
    if head is None and _served(recipe_store, about):
        newest = ledger.newest()
        first = Entry(
            sequence=newest.sequence + 1 if newest else 1,
            kind="promote",
            version=version,
            reason=reason,
            who=whoami(),
            at=datetime.now(UTC),
            **about,
        )
        _followed(recipe_store, first, as_json=as_json, first=True)
        return
    entry = ledger.append(head, kind="promote", version=version, reason=reason, **about)
    _followed(recipe_store, entry, as_json=as_json)


def _served(store: Store, about: dict[str, Any]) -> bool:
    """Whether Triton serves the task of a model."""
    from regraft import snapshot, tasks

    return tasks.served(snapshot.of_champion(store, about["model"], about["run"]).task)


def _unchanged(store: Store, entry: Entry) -> None:
    """Raises BadInput where the store's model is another than the one that became champion; it may be gone, as long as
    Triton's repository has it."""
    from contextlib import suppress

    from regraft import step as steps
    from regraft.errors import NotFound

    with suppress(NotFound):
        steps.bound(store, entry)


def _waiting(store: Store, name: str, version: int, head: Entry | None) -> Manifest:
    """The result of promote that left a version waiting, for approval or to be served. Raises BadInput, Refused."""
    from regraft.errors import BadInput, Refused

    manifest = _registration(store, version)
    if manifest is None:
        raise BadInput(
            f"no version {version} of {name} was champion, or waits for approval or to be served",
            where=store.where("promote"),
            next=f"regraft history {name}",
        )
    judged = store.manifest(f"evaluate/{manifest.inputs.get('evaluation', '')}")
    compared = (judged.inputs.get("champion") if judged else None) or "none"
    if compared != (head.model if head else "none"):
        raise Refused(
            f"the champion changed since version {version} was compared with it",
            state="nothing was changed",
            next=f"regraft run RECIPE --run {manifest.run}  (compares it with the new one)",
        )
    return manifest


def _registration(store: Store, version: int) -> Manifest | None:
    """The result of the promote step that registered a version and left it waiting: for approval, or to be served."""
    manifests = (store.manifest(f"promote/{identity}") for identity in store.names("promote"))
    waiting = (m for m in manifests if m and m.metrics.get("version") == version and m.refused_by in (None, "approval"))
    return max(waiting, key=lambda m: m.created_at, default=None)


def _followed(store: Store, entry: Entry, *, as_json: bool, first: bool = False) -> None:
    """Makes MLflow and Triton follow the ledger, and says so.

    Args:
        first: the entry is not in the ledger yet: deploy writes it once the version serves.

    Raises:
        Refused: deploy refused the version.
        Temporary: a server did not follow.
    """
    from rich.markup import escape

    from regraft import snapshot
    from regraft.errors import Refused, Temporary
    from regraft.ledger import Ledger

    key = snapshot.key_of_champion(store, entry.model, entry.run)
    with console(stderr=True).status("MLflow and Triton follow the ledger"):
        answers = _ask_followers(store, key, repair=True, first=entry if first else None)
    head = Ledger(store).head()
    refused = answers["Triton"]["refused"] if "Triton" in answers else None
    serves = head is not None and head.version == entry.version
    if first and serves and head:
        entry = head
    document = {"entry": json.loads(entry.model_dump_json()), "follow": answers}
    document["champion"] = json.loads(head.model_dump_json()) if head else None
    text = []
    if serves:
        text.append(
            f"[green]✔[/] {entry.kind}: version {entry.version} of {store.recipe} is champion, entry {entry.sequence}"
        )
    for server, answer in answers.items():
        mark = "[green]✔[/]" if answer["agrees"] else "[red]✘[/]"
        text.append(f"{mark} {server} {'agrees' if answer['agrees'] else escape(answer['error'])}")
    show(document, "\n".join(text), as_json=as_json)
    champion = f"version {head.version} is champion in the ledger" if head else "there is no champion"
    if refused:
        raise Refused(
            f"deploy refused version {entry.version}: {refused}",
            state=champion,
            next=f"mend the recipe, and regraft run RECIPE --run {entry.run}  (tries it again)",
        )
    behind = [server for server, answer in answers.items() if not answer["agrees"]]
    if behind:
        raise Temporary(
            f"{' and '.join(behind)} did not follow",
            state=f"{champion}, which is what counts",
            next=f"regraft promote {store.recipe} --version {entry.version}" if first else "regraft doctor --repair",
        )


def _ask_followers(store: Store, key: str, *, repair: bool, first: Entry | None = None) -> dict[str, dict[str, Any]]:
    """What MLflow and Triton say of the ledger: `agrees`, `differences`, `refused`, `error`, each of its component.

    Args:
        key: where the recipe to read stands in the store.
        first: what becomes the first champion by a repair, if it serves.
    """
    import os

    from regraft import pipeline, process, snapshot, stack
    from regraft.errors import Exit

    environment = {**os.environ, **stack.environment()}
    environment |= {"REGRAFT_FIRST": first.model_dump_json()} if first else {}
    answers = {}
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_bytes(store.read(key))
        for server, step in pipeline.followers(snapshot.at(store, key).task).items():
            command = process.command(step.follower, recipe, process.arguments(store=store.url, repair=repair))
            with (Path(folder) / "document").open("w+") as document:
                variables = pipeline.variables(step, environment)
                with process.started(command, variables, document=document) as running:
                    ended = process.followed(running, say=lambda line: None)
                document.seek(0)
                printed = document.read().strip()
            said = json.loads(printed) if printed.startswith("{") else {}
            words = [by] if (by := process.killed(ended.exit)) else ended.words
            error = said.get("refused") or "; ".join(said.get("differences", [])) or "\n".join(words)
            answers[server] = {
                "agrees": ended.exit == Exit.DONE,
                "differences": said.get("differences", []),
                "refused": said.get("refused"),
                "error": None if ended.exit == Exit.DONE else error,
            }
    return answers


@app.command(
    epilog="Examples: `regraft doctor reviews --repair`, `regraft doctor --security`. Exit code 20: not healthy."
)
@acts
def doctor(
    name: Annotated[str | None, typer.Argument(help="Name of a recipe; all when left out.", show_default=False)] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    security: Annotated[bool, typer.Option("--security", help="Name what stands open where this runs.")] = False,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Checks that ledger, store, MLflow and Triton agree; `--repair` makes MLflow and Triton follow the ledger."""
    from rich.markup import escape

    from regraft.errors import Exit

    if security:
        _security(as_json=as_json)
        return
    names = [store_of(store, name).recipe] if name else recipes_in(store)
    with console(stderr=True).status("looking"):
        examined = {known: _examine(store_of(store, known), repair=repair) for known in names}
    lines = []
    for known, checks in examined.items():
        lines.append(f"[bold]{known}[/]")
        for check in checks:
            mark = "[green]✔[/]" if check["healthy"] else "[red]✘[/]"
            lines.append(f"  {mark} {check['check']:<7} {escape(check['says'])}")
    show(examined, "\n".join(lines) or "no recipe has run in this store: nothing to check", as_json=as_json)
    if not all(check["healthy"] for checks in examined.values() for check in checks):
        if not repair:
            typer.echo("next: regraft doctor --repair", err=True)
        raise typer.Exit(int(Exit.BAD_INPUT))


def _security(*, as_json: bool) -> None:
    """Shows what stands open. Exit code 20 where something does."""
    import os
    from contextlib import suppress
    from dataclasses import asdict

    from rich.markup import escape

    from regraft import security, stack
    from regraft.errors import Exit, RegraftError

    environment = dict(os.environ)
    with suppress(RegraftError):  # no server is known here
        environment |= stack.environment()
    with console(stderr=True).status("looking"):
        doors = security.doors(environment)
    lines = []
    for door in doors:
        lines.append(f"{'[red]✘[/]' if door.open else '[green]✔[/]'} {escape(f'{door.name}: {door.says}')}")
        if door.open and door.next:
            lines.append(f"    next: {escape(door.next)}")
    show([asdict(door) for door in doors], "\n".join(lines) or "nothing to look at", as_json=as_json)
    if any(door.open for door in doors):
        raise typer.Exit(int(Exit.BAD_INPUT))


@app.command(epilog="Example: `regraft sign movie-sentiment --store s3://bucket/prefix`")
@acts
def sign(name: Name, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Signs all that the store holds of a recipe, whoever wrote it: where a key is new, or a backup was restored."""
    from regraft import signing
    from regraft.errors import BadInput

    if not signing.configured():
        raise BadInput("there is no key to sign with", where=signing.SIGNING, next=signing.EXAMPLE)
    signed = store_of(store, name).sign()
    show({"signed": signed}, f"signed {signed} objects of {name}", as_json=as_json)


def _check(name: str, healthy: bool, says: str) -> dict[str, Any]:
    return {"check": name, "healthy": healthy, "says": says}


def _examine(store: Store, *, repair: bool) -> list[dict[str, Any]]:
    """The checks of one recipe, each `check`, `healthy` and `says`."""
    from regraft import bases, snapshot
    from regraft import step as steps
    from regraft.errors import RegraftError
    from regraft.ledger import IndexRow, Ledger

    ledger = Ledger(store)
    try:
        entries = ledger.entries()
    except RegraftError as error:
        return [_check("ledger", False, str(error))]
    if not entries:
        checks = [_check("ledger", True, "no champion yet")]
        begun = [run for run in store.names("runs") if store.exists(f"runs/{run}/promote.json")]
        if begun:
            checks += _servers(store, snapshot.key_of_run(store, begun[-1]), repair=repair)
        return checks
    newest = entries[-1]
    agrees = ledger.index()[: len(entries)] == [IndexRow.of(entry) for entry in entries]
    if not agrees and repair:
        ledger.write_index(entries)
    champion = "was withdrawn: there is no champion" if newest.kind == "withdraw" else "is champion"
    checks = [_check("ledger", True, f"whole: {len(entries)} entries, version {newest.version} {champion}")]
    if not agrees:
        says = "mended" if repair else "index.json lags or is damaged: what asks the ledger reads more than it needs"
        checks.append(_check("index", repair, says))
    wrong = []
    for entry in {entry.model: entry for entry in entries}.values():
        try:
            bases.lineage(store, steps.bound(store, entry))
            steps.result_of(store, "evaluate", entry.evaluation)
        except RegraftError as error:
            wrong.append(f"version {entry.version}: {error.where} {error.what}")
    checks.append(_check("store", not wrong, "; ".join(wrong) or "has the model of every entry, as it became champion"))
    key = snapshot.key_of_champion(store, newest.model, newest.run)
    return [*checks, *_servers(store, key, repair=repair)]


def _servers(store: Store, key: str, *, repair: bool) -> list[dict[str, Any]]:
    """The checks of MLflow and Triton."""
    from regraft.errors import RegraftError

    try:
        answers = _ask_followers(store, key, repair=repair)
    except RegraftError as error:
        return [_check("servers", False, str(error))]
    checks = []
    for server, answer in answers.items():
        mended = "; mended: " + "; ".join(answer["differences"]) if repair and answer["differences"] else ""
        says = f"agrees with the ledger{mended}" if answer["agrees"] else answer["error"]
        checks.append(_check(server, answer["agrees"], says))
    return checks
