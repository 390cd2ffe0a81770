"""Commands on champions: history, promote, rollback, doctor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.app import DEFAULT_STORE, Json, Name, StoreUrl, acts, app, console, recipes_in, show, store_of

if TYPE_CHECKING:
    from regraft.ledger import Entry
    from regraft.store import Manifest, Store

# Triton first: where it refuses a champion the ledger changes, and MLflow follows that.
FOLLOWERS = {"Triton": "components.deploy.follow", "MLflow": "components.promote.follow"}
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

    found = store_of(store, name)
    ledger = Ledger(found)
    head, previous = ledger.head(), ledger.previous()
    if head is None or previous is None:
        raise BadInput(
            f"{name} has no champion before {f'version {head.version}' if head else 'this: it has none'}",
            where=found.where("ledger"),
            state="nothing was changed",
            next=f"regraft history {name}",
        )
    reason = reason or f"rolled back from version {head.version} by hand"
    entry = ledger.again(head, previous, kind="rollback", reason=reason)
    _followed(found, entry, as_json=as_json)


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

    from regraft.ledger import Entry, Ledger, whoami

    found = store_of(store, name)
    ledger = Ledger(found)
    head = ledger.head()
    if head and head.version == version:
        typer.echo(f"version {version} is the champion already; making MLflow and Triton follow", err=True)
        _followed(found, head, as_json=as_json)
        return
    earlier = ledger.version(version)
    if earlier:
        model, run, evaluation = earlier.model, earlier.run, earlier.evaluation
    else:
        model, run, evaluation = _waiting(found, name, version, head)
    about: dict[str, Any] = {"model": model, "run": run, "evaluation": evaluation}
    reason = reason or ("promoted again by hand" if earlier else "approved by hand")
    if head is None:
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
        _followed(found, first, as_json=as_json, first=True)
        return
    entry = ledger.append(head, kind="promote", version=version, reason=reason, **about)
    _followed(found, entry, as_json=as_json)


def _waiting(store: Store, name: str, version: int, head: Entry | None) -> tuple[str, str, str]:
    """Model, run and evaluation of a version that waits for approval or to be served. Raises BadInput, Refused."""
    from regraft.errors import BadInput, Refused

    manifest = _registration(store, version)
    if manifest is None:
        raise BadInput(
            f"no version {version} of {name} was champion, or waits for approval or to be served",
            where=store.where("promote"),
            next=f"regraft history {name}",
        )
    model, evaluation = manifest.inputs["model"], manifest.inputs["evaluation"]
    judged = store.manifest(f"evaluate/{evaluation}")
    compared = (judged.inputs.get("champion") if judged else None) or "none"
    if compared != (head.model if head else "none"):
        raise Refused(
            f"the champion changed since version {version} was compared with it",
            state="nothing was changed",
            next=f"regraft run RECIPE --run {manifest.run}  (compares it with the new one)",
        )
    return model, str(manifest.run), evaluation


def _registration(store: Store, version: int) -> Manifest | None:
    """The result of the promote step that registered a version and left it waiting: for approval, or to be served."""
    found = (store.manifest(f"promote/{identity}") for identity in store.names("promote"))
    waiting = (
        m for m in found if m and m.metrics.get("version") == version and (m.refused is None or "approval" in m.refused)
    )
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

    from regraft.errors import Refused, Temporary
    from regraft.ledger import Ledger

    with console(stderr=True).status("MLflow and Triton follow the ledger"):
        answers = follow(store, entry.run, repair=True, first=entry if first else None)
    head = Ledger(store).head()
    refused, serves = answers["Triton"]["refused"], head is not None and head.version == entry.version
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


def follow(store: Store, run: str, *, repair: bool, first: Entry | None = None) -> dict[str, dict[str, Any]]:
    """What MLflow and Triton say of the ledger: `agrees`, `differences`, `refused`, `error`, each of its component.

    Args:
        run: whose recipe to read.
        first: what becomes the first champion by a repair, if it serves.
    """
    import os

    from regraft import stack
    from regraft.errors import Exit

    environment = {**os.environ, **stack.environment()}
    environment |= {"REGRAFT_FIRST": first.model_dump_json()} if first else {}
    answers = {}
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_bytes(store.read(f"runs/{run}/recipe.yaml"))
        for server, module in FOLLOWERS.items():
            command = [sys.executable, "-m", module, "--recipe", str(recipe), "--store", store.url]
            command += ["--repair"] if repair else []
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            words = [line for line in done.stderr.splitlines() if not line.startswith("progress ")]
            said = json.loads(done.stdout) if done.stdout.strip().startswith("{") else {}
            error = said.get("refused") or "; ".join(said.get("differences", [])) or "\n".join(words)
            answers[server] = {
                "agrees": done.returncode == Exit.DONE,
                "differences": said.get("differences", []),
                "refused": said.get("refused"),
                "error": None if done.returncode == Exit.DONE else error,
            }
    return answers


@app.command(epilog="Examples: `regraft doctor`, `regraft doctor movie-sentiment --repair`. Exit code 20: not healthy.")
@acts
def doctor(
    name: Annotated[str | None, typer.Argument(help="Name of a recipe; all when left out.", show_default=False)] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Checks that ledger, store, MLflow and Triton agree; `--repair` makes MLflow and Triton follow the ledger."""
    from rich.markup import escape

    from regraft.errors import Exit

    names = [store_of(store, name).recipe] if name else recipes_in(store)
    with console(stderr=True).status("looking"):
        found = {known: _examine(store_of(store, known), repair=repair) for known in names}
    lines = []
    for known, checks in found.items():
        lines.append(f"[bold]{known}[/]")
        for check in checks:
            mark = "[green]✔[/]" if check["healthy"] else "[red]✘[/]"
            lines.append(f"  {mark} {check['check']:<7} {escape(check['says'])}")
    show(found, "\n".join(lines) or "no recipe has run in this store: nothing to check", as_json=as_json)
    if not all(check["healthy"] for checks in found.values() for check in checks):
        if not repair:
            typer.echo("next: regraft doctor --repair", err=True)
        raise typer.Exit(int(Exit.BAD_INPUT))


def _check(name: str, healthy: bool, says: str) -> dict[str, Any]:
    return {"check": name, "healthy": healthy, "says": says}


def _examine(store: Store, *, repair: bool) -> list[dict[str, Any]]:
    """The checks of one recipe, each `check`, `healthy` and `says`."""
    from regraft.errors import RegraftError
    from regraft.ledger import Ledger

    try:
        entries = Ledger(store).entries()
    except RegraftError as error:
        return [_check("ledger", False, str(error))]
    if not entries:
        found = [_check("ledger", True, "no champion yet")]
        begun = [run for run in store.names("runs") if store.exists(f"runs/{run}/promote.json")]
        return found if not begun else [*found, *_servers(store, begun[-1], repair=repair)]
    newest = entries[-1]
    champion = "was withdrawn: there is no champion" if newest.kind == "withdraw" else "is champion"
    found = [_check("ledger", True, f"whole: {len(entries)} entries, version {newest.version} {champion}")]
    lost = [
        f"{step}/{identity[:12]} of version {entry.version}"
        for entry in entries
        for step, identity in (("finetune", entry.model), ("evaluate", entry.evaluation))
        if store.manifest(f"{step}/{identity}") is None
    ]
    found.append(_check("store", not lost, f"lacks {', '.join(lost)}" if lost else "has the model of every entry"))
    return [*found, *_servers(store, newest.run, repair=repair)]


def _servers(store: Store, run: str, *, repair: bool) -> list[dict[str, Any]]:
    """The checks of MLflow and Triton."""
    from regraft.errors import RegraftError

    try:
        answers = follow(store, run, repair=repair)
    except RegraftError as error:
        return [_check("servers", False, str(error))]
    found = []
    for server, answer in answers.items():
        mended = "; mended: " + "; ".join(answer["differences"]) if repair and answer["differences"] else ""
        says = f"agrees with the ledger{mended}" if answer["agrees"] else answer["error"]
        found.append(_check(server, answer["agrees"], says))
    return found
