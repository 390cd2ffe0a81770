"""The application that all commands hang on, and what they share: options, output, errors."""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from regraft.store import Store

atexit.register(gc.freeze)  # the interpreter would search all it holds for cycles before it ends

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="regraft",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Keeps fine-tuned transformers current: validate, finetune, evaluate, promote, deploy.",
    epilog="Start with `regraft up`, then `regraft run dags/recipes/movie-sentiment.yaml`.",
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe's YAML file.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Name of the recipe.", show_default=False)]
StoreUrl = Annotated[
    str, typer.Option("--store", envvar="REGRAFT_STORE", help="fsspec URL or path of the store.", metavar="URL")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DEFAULT_STORE = ".regraft/store"


def acts(command: Callable[P, R]) -> Callable[P, R]:
    """Ends a command that raises one of our errors with its message and its exit code."""

    @functools.wraps(command)
    def guarded(*arguments: P.args, **options: P.kwargs) -> R:
        from regraft import escaped, locations
        from regraft.errors import RegraftError

        try:
            return command(*arguments, **options)
        except RegraftError as error:
            typer.echo(escaped.lines(locations.as_written(f"regraft: {error}")), err=True)
            raise typer.Exit(int(error.exit)) from error

    return guarded


def console(*, stderr: bool = False) -> Console:
    """A terminal, wide enough for a table where there is none."""
    from regraft.cli.terminal import Terminal

    terminal = Terminal(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Terminal(stderr=stderr, highlight=False, width=120)


def show(document: Any, text: Any, *, as_json: bool) -> None:
    """Prints data as JSON, or as text for a person."""
    if as_json:
        typer.echo(json.dumps(document, indent=1, default=str))
    else:
        console().print(text)


def store_of(url: str, name: str) -> Store:
    """The store of a recipe that has run. Raises BadInput, with the names that the store does have."""
    import difflib

    from regraft import sources
    from regraft.errors import BadInput
    from regraft.store import Store

    store = Store(url, name)
    if not store.names("runs") and not store.names("ledger"):
        with sources.reading(url):
            system, root = sources.filesystem(url.rstrip("/"))
            known = [Path(p).name for p in system.ls(root, detail=False)] if system.exists(root) else []
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BadInput(f"no recipe {name!r} has run in this store{hint}", where=url, next="regraft status")
    return store


def recipes_in(url: str) -> list[str]:
    """Names of the recipes that have run in a store."""
    from regraft import sources
    from regraft.store import Store

    system, root = sources.filesystem(url.rstrip("/"))
    with sources.reading(url):
        names = sorted(Path(p).name for p in system.ls(root, detail=False)) if system.exists(root) else []
    return [name for name in names if Store(url, name).names("runs")]


def command_line(*words: object) -> str:
    """A command as a person would type it."""
    import shlex

    return shlex.join([str(word) for word in words])


def relative(path: str | Path) -> str:
    """A path as seen from here, where it lies below here."""
    from_here = os.path.relpath(path)
    return str(path) if from_here.startswith("..") else from_here
