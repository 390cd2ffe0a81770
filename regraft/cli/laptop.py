"""Commands on the laptop stack: up, down."""

from __future__ import annotations

import json

import typer

from regraft.cli.app import Json, acts, app, console


@app.command(epilog="Example: `regraft up`")
@acts
def up(as_json: Json = False) -> None:
    """Starts the laptop stack: an MLflow server and a Triton server. What runs already is left alone."""
    from regraft import stack

    terminal = console(stderr=True)
    with terminal.status("starting the laptop stack"):
        running = stack.up(say=terminal.print)
    if as_json:
        typer.echo(running.model_dump_json(indent=1))
    elif running.mlflow and running.triton:
        console().print(f"MLflow  [cyan]{running.mlflow.url}[/]\nTriton  [cyan]{running.triton.url}[/]")


@app.command(epilog="Example: `regraft down`")
@acts
def down(as_json: Json = False) -> None:
    """Stops what `regraft up` started, and nothing else. Runs, models and history stay."""
    from regraft import stack

    terminal = console(stderr=True)
    with terminal.status("stopping the laptop stack"):
        stopped = stack.down(say=terminal.print)
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    elif not stopped:
        console().print("nothing was up")
