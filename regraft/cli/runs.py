"""Commands on runs: run, status."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Annotated, Any

import typer

from regraft.cli.app import (
    DEFAULT_STORE,
    Json,
    RecipeFile,
    StoreUrl,
    acts,
    app,
    command_line,
    console,
    recipes_in,
    show,
    store_of,
)


@app.command(
    epilog="Example: `regraft run dags/recipes/movie-sentiment.yaml`. Exit codes: 0 done, 10 refused by a gate, "
    "20 bad input, 75 temporary, 1 a bug."
)
@acts
def run(
    recipe: RecipeFile,
    store: StoreUrl = DEFAULT_STORE,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Run id: the end of its data window in UTC.  [default: the run that is due]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs a recipe through its steps on this machine. What is there already is not done again."""
    from regraft import pipeline, stack, summary
    from regraft import recipe as recipes
    from regraft.cli.watching import watching
    from regraft.runners import local
    from regraft.store import Store

    declared = recipes.load(recipe)
    chosen = run or pipeline.run_id(declared)
    endpoints = stack.environment()
    again = _again(recipe, store, run)
    terminal = console(stderr=True)
    terminal.print(f"[bold]{declared.name}[/]  run {chosen}")
    try:
        with watching(terminal) as watcher:
            ended = local.run(
                recipe,
                store=store,
                run=chosen,
                logs=stack.HOME / "logs",
                watcher=watcher,
                environment={**endpoints, "REGRAFT_STORE": store},
            )
    except local.Interrupted as error:
        error.next = f"{again}  (resumes)"
        raise
    last = ended[-1]
    if last.state == "failed":
        raise local.failure(last, command=again)
    document = summary.facts(declared, Store(store, declared.name), chosen, endpoints)
    show(document, summary.render(document), as_json=as_json)
    raise typer.Exit(last.exit)


def _again(recipe: object, store: str, run: str | None) -> str:
    """The command that was typed."""
    words: list[object] = ["regraft", "run", recipe]
    if store != DEFAULT_STORE and "REGRAFT_STORE" not in os.environ:
        words += ["--store", store]
    return command_line(*words, *(["--run", run] if run else []))


@app.command(epilog="Examples: `regraft status`, `regraft status movie-sentiment --run 2026-11-24T03-00`")
@acts
def status(
    name: Annotated[str | None, typer.Argument(help="Name of a recipe; all when left out.", show_default=False)] = None,
    run: Annotated[str | None, typer.Option("--run", help="Run id.  [default: the newest]")] = None,
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Shows where things stand: the last runs and champions of all recipes, or one run in full."""
    from regraft import snapshot, stack, summary
    from regraft.errors import BadInput, Temporary

    try:
        endpoints = stack.environment()
    except Temporary:
        endpoints = {}
    if died := stack.deaths():
        text = f"Triton of the laptop stack died and was started again, {len(died)} in all, the last: {died[-1]}; see "
        console(stderr=True).print(text + str(stack.HOME / "logs" / "triton.log"), style="yellow", highlight=False)
    if name is None:
        overview = [_line(store, known) for known in recipes_in(store)]
        show(overview, _table(overview, endpoints), as_json=as_json)
        return
    recipe_store = store_of(store, name)
    runs = recipe_store.names("runs")
    chosen = run or runs[-1]
    if chosen not in runs:
        raise BadInput(f"{name} has no run {chosen}; it has {', '.join(runs[-5:])}", where=store)
    document = summary.facts(snapshot.of_run(recipe_store, chosen), recipe_store, chosen, endpoints)
    show(document, summary.render(document), as_json=as_json)


def _line(url: str, name: str) -> dict[str, Any]:
    """The newest run and the champion of a recipe."""
    from regraft import snapshot, summary
    from regraft.errors import RegraftError
    from regraft.ledger import Ledger
    from regraft.store import Store

    store = Store(url, name)
    run = store.names("runs")[-1]
    declared = None
    with suppress(RegraftError):  # this is an overview: whoever asks for the run is told
        declared = snapshot.of_run(store, run)
    steps = summary.steps(store, run, declared)
    head = Ledger(store).head()
    champion = json.loads(head.model_dump_json()) if head else None
    stopped = next((s for s in steps if s["state"] in ("refused", "failed")), None)
    states = {s["step"]: s["state"] for s in steps}
    return {"recipe": name, "run": run, "steps": states, "stopped": stopped, "champion": champion}


def _table(overview: list[dict[str, Any]], endpoints: dict[str, str]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from regraft import servers, settings, summary

    if not overview:
        return "no recipe has run here yet; next: regraft run dags/recipes/movie-sentiment.yaml"
    table = Table(
        "recipe", "last run", "steps", "champion", "Triton", "", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    triton, token = endpoints.get("REGRAFT_TRITON_URLS", "").split(",")[0], settings.triton_token(endpoints)
    for line in overview:
        marks = "".join(summary.MARKS[state] for state in line["steps"].values())
        champion = f"version {line['champion']['version']}" if line["champion"] else "none"
        served = servers.versions(triton, line["recipe"], token) if triton else []
        ready = ", ".join(f"version {s['version']}" for s in served if s["state"] == "READY") or (
            "-" if triton else "down"
        )
        stopped = line["stopped"]
        why = f"{stopped['step']} {stopped['state']}: {stopped['reason']}" if stopped else ""
        table.add_row(line["recipe"], line["run"], marks, champion, ready, escape(why))
    return table
