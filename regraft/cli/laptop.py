"""Commands on the laptop stack: up, down."""

from __future__ import annotations

import json

import typer

from regraft.cli.app import Json, acts, app, console


@app.command(epilog="Example: `regraft up`")
@acts
def up(as_json: Json = False) -> None:
    """Starts the laptop stack: MLflow, Triton, and OpenAI's API before it. What runs already is left alone."""
    from regraft import stack

    terminal = console(stderr=True)
    with terminal.status("starting the laptop stack"):
        running = stack.up(say=terminal.print)
    if as_json:
        typer.echo(running.model_dump_json(indent=1))
    elif running.mlflow and running.triton and running.openai:
        urls = {"MLflow": running.mlflow.url, "Triton": running.triton.url, "OpenAI": f"{running.openai.url}/v1"}
        console().print("\n".join(f"{name}  [cyan]{url}[/]" for name, url in urls.items()))


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
