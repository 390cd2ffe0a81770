"""The contract between steps: the one way a step starts, finds its inputs, is cached, publishes and ends.

A component's `__main__.py` calls `main` with two functions:

- `inputs(context)` gives the digest of everything the step reads. It must be quick: it is all that a cached step does.
- `work(context)` does the step's work in `context.scratch`, leaves the files to publish in `context.out` and returns an
  `Outcome`. It runs only when the store has no complete result for this identity.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from regraft import pipeline, processor, recipe, settings
from regraft.errors import BadInput, Exit, NotFound, Refused, RegraftError, Temporary
from regraft.ledger import Ledger
from regraft.recipe import Recipe
from regraft.store import Cost, Manifest, Store, sha256


@dataclass(kw_only=True)
class Outcome:
    """What a step found out; see `Manifest` for the fields."""

    metrics: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(kw_only=True)
class Context:
    """What a step knows: its recipe, its store, its run, and folders of its own."""

    recipe: Recipe
    store: Store
    run: str
    step: pipeline.Step
    scratch: Path
    identity: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    on_terminate: Callable[[], None] | None = None
    """Called at SIGTERM instead of stopping at once, by a step that has something to save first."""
    _progress: tuple[float, float] = (0.0, 0.0)

    @property
    def out(self) -> Path:
        """The folder whose files are published."""
        folder = self.scratch / "out"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def prefix(self) -> str:
        """Where this step's result stands in the store."""
        return f"{self.step.name}/{self.identity}"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def result(self, step: str) -> Manifest:
        """The manifest of a step before this one, in this run.

        Raises:
            Refused: that step was refused by a gate.
            BadInput: that step has not run.
        """
        return upstream(self.store, self.run, step, command=self._command(step))

    def fetch(self, manifest: Manifest, *only: str) -> Path:
        """Downloads files of a result, checked, and gives the folder they are in."""
        folder = self.scratch / manifest.step / manifest.identity[:16]
        return self.store.fetch(f"{manifest.step}/{manifest.identity}", manifest, folder, only=only)

    def progress(self, done: float, text: str) -> None:
        """Says how far the step is: `done` from 0 to 1, and a few words.

        One line a percent, but at most one a second, and at least one a minute.
        """
        now, (before, last) = time.monotonic(), self._progress
        if done >= 1 or now - last >= (1 if done - before >= 0.01 else 60):
            self._progress = (done, now)
            print(f"progress {done:.3f} {text}", file=sys.stderr, flush=True)

    def _command(self, step: str) -> str:
        return f"python -m components.{step} --recipe RECIPE --store {self.store.url} --run {self.run}"


def result_of(store: Store, step: str, identity: str) -> Manifest:
    """The manifest of a step's result by its identity. Raises NotFound."""
    manifest = store.manifest(f"{step}/{identity}")
    if manifest is None:
        raise NotFound(
            f"the store has no complete result of {step}",
            where=store.where(f"{step}/{identity}"),
            next="regraft doctor",
        )
    return manifest


def upstream(store: Store, run: str, step: str, *, command: str | None = None) -> Manifest:
    """The manifest that a run's pointer for a step names. Raises Refused, BadInput."""
    try:
        pointer = store.read_json(f"runs/{run}/{step}.json")
    except NotFound as error:
        raise NotFound(
            f"step {step} has not run in run {run}",
            where=store.where(f"runs/{run}/{step}.json"),
            next=command,
        ) from error
    if pointer["state"] == "failed":
        raise NotFound(f"step {step} failed in run {run}: {pointer['error']}", next=command)
    manifest = result_of(store, step, pointer["identity"])
    if manifest.refused:
        raise Refused(f"{step} refused run {run}: {manifest.refused}", where=store.where(f"runs/{run}"))
    return manifest


def recipe_of(store: Store, run: str) -> Recipe:
    """The recipe as it was when a run began. Raises NotFound, and BadInput where it holds no longer."""
    key = f"runs/{run}/recipe.yaml"
    mend = "start a new run: regraft run RECIPE  (another version of regraft took what this one refuses)"
    return recipe.parse(store.read(key).decode(), where=store.where(key), next=mend)


class _Terminated(BaseException):
    """SIGTERM arrived."""


def identity_document(step: pipeline.Step, recipe: Recipe, inputs: dict[str, str]) -> dict[str, Any]:
    """All that determines a step's output; its digest is the identity."""
    return {
        "step": step.name,
        "inputs": inputs,
        "recipe": pipeline.recipe_part(recipe, step),
        "code": pipeline.code_digest(step),
        "libraries": pipeline.library_versions(step),
    }


def main(
    name: str,
    *,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Context], Outcome],
    verify: Callable[[Context, Manifest], bool] | None = None,
) -> NoReturn:
    """Runs a step from the command line and ends the process with one of the exit codes.

    Args:
        verify: asked before a cached result is used, by a step whose effect lies outside the store; False: run again.
    """
    step = pipeline.step(name)
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}", description=f"regraft step: {step.summary}.")
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--store", required=True, help="fsspec URL of the store, such as s3://bucket/prefix")
    parser.add_argument("--run", required=True, help="run id: the end of the data window, such as 2026-11-24T03-00")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # what libraries will change is for those who program
    sys.exit(_run(step, Path(arguments.recipe), arguments.store, arguments.run, inputs, work, verify))


def follow_main(name: str, *, follow: Callable[[Recipe, Store, bool], tuple[dict[str, Any], bool]]) -> NoReturn:
    """Compares a server with the ledger from the command line, and with --repair makes it follow; prints JSON.

    Ends the process with 0 where the server agrees, or does now, with 10 where it differs, or as an error says. The
    recipe given names the model; how that is served says the recipe of the champion's own run, which has been tried.

    Args:
        name: of the component that the server is the business of.
        follow: given recipe, store and whether to repair, gives what to print, and whether the server agrees.
    """
    about = "Says where a server differs from the ledger."
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}.follow", description=about)
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--store", required=True, help="fsspec URL of the store")
    parser.add_argument("--repair", action="store_true", help="make it follow, instead of only naming what differs")
    arguments = parser.parse_args()
    try:
        declared = recipe.load(arguments.recipe)
        store = Store(arguments.store, declared.name)
        if head := Ledger(store).head():
            with suppress(BadInput):  # somebody may have removed old runs, or an older regraft took what this refuses
                declared = recipe_of(store, head.run)
        found, agrees = follow(declared, store, arguments.repair)
    except RegraftError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit)
    print(json.dumps(found))
    sys.exit(Exit.DONE if agrees else Exit.REFUSED)


def _run(
    step: pipeline.Step,
    path: Path,
    url: str,
    run: str,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Context], Outcome],
    verify: Callable[[Context, Manifest], bool] | None,
) -> Exit:
    context: Context | None = None

    def terminate(signum: int, frame: FrameType | None) -> None:
        if context is not None and context.on_terminate is not None:
            context.on_terminate()
        else:
            raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    try:
        settings.check()
        below = settings.scratch()
    except BadInput as wrong:
        print(f"{step.name}: {wrong}", file=sys.stderr, flush=True)
        return wrong.exit
    with tempfile.TemporaryDirectory(prefix=f"regraft-{step.name}-", dir=below) as scratch:
        try:
            declared = recipe.load(path)
            pipeline.run_time(run)
            os.environ.update(pipeline.threads(declared, step))
            store = Store(url, declared.name)
            context = Context(recipe=declared, store=store, run=run, step=step, scratch=Path(scratch))
            snapshot = path.read_bytes()
            store.replace(f"runs/{run}/recipe.yaml", snapshot)
            return _cached_or_worked(context, inputs, work, verify)
        except _Terminated:
            error: RegraftError = Temporary("stopped by a signal", next="repeat the command: it resumes")
        except RegraftError as raised:
            error = raised
        except MemoryError:
            error = Temporary(
                "out of memory",
                next=f"raise resources.{step.name}.memory in the recipe, then repeat the command",
            )
        except Exception as raised:
            traceback.print_exc()
            error = RegraftError(
                f"a bug in regraft: {type(raised).__name__}: {raised}", next="report it, with the lines above"
            )
        print(f"{step.name}: {error}", file=sys.stderr, flush=True)
        if context is not None:
            with suppress(RegraftError):
                _point(context, state="failed", error=error.what, next=error.next, exit=int(error.exit))
        return error.exit


def _cached_or_worked(
    context: Context,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Context], Outcome],
    verify: Callable[[Context, Manifest], bool] | None,
) -> Exit:
    started, cpu = time.monotonic(), _cpu_seconds()
    step, store = context.step, context.store
    context.inputs = inputs(context)
    document = identity_document(step, context.recipe, context.inputs)
    context.identity = sha256(document)
    manifest = store.manifest(context.prefix)
    if manifest is not None and (_forced(context) or (verify is not None and not verify(context, manifest))):
        store.clear(context.prefix)
        manifest = None
    cached = manifest is not None
    if manifest is None:
        outcome = work(context)
        manifest = store.publish(
            context.prefix,
            context.out,
            {
                "step": step.name,
                "identity": context.identity,
                "document": document,
                "metrics": outcome.metrics,
                "measured": outcome.measured,
                "refused": outcome.refused,
                "run": context.run,
                "processor": processor.kind(),
                "created_at": datetime.now(UTC),
                "cost": Cost(
                    seconds=time.monotonic() - started,
                    cpu_seconds=_cpu_seconds() - cpu,
                    peak_memory_bytes=max(resource.getrusage(w).ru_maxrss for w in _WHO) * 1024,
                ),
            },
            views=outcome.views,
        )
    elif other := made_elsewhere(manifest):
        print(f"{step.name}: the cached result is used; {other}", file=sys.stderr, flush=True)
    state = "refused" if manifest.refused else "done"
    _point(context, state=state, identity=context.identity, cached=cached, seconds=time.monotonic() - started)
    if manifest.refused:
        print(f"{step.name}: refused: {manifest.refused}", file=sys.stderr, flush=True)
        return Exit.REFUSED
    return Exit.DONE


def made_elsewhere(manifest: Manifest) -> str | None:
    """A clause about a result that was made on another kind of processor than this one, which would make another."""
    here = processor.kind()
    if manifest.processor in (None, here):
        return None
    return f"it was made on another kind of processor: {manifest.processor}; here: {here}"


def _forced(context: Context) -> bool:
    """Whether somebody wants the work done again (REGRAFT_FORCE=1). What a champion stands on is never cleared."""
    if os.environ.get("REGRAFT_FORCE") != "1":
        return False
    return all(context.identity not in (entry.model, entry.evaluation) for entry in context.ledger.entries())


def _point(context: Context, **pointer: Any) -> None:
    """Writes the run's pointer to what became of this step."""
    document = {"step": context.step.name, "run": context.run, "at": datetime.now(UTC).isoformat(), **pointer}
    context.store.replace(f"runs/{context.run}/{context.step.name}.json", json.dumps(document, indent=1).encode())


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in _WHO]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
