"""The contract between steps: the one way a step starts, finds its inputs, is cached, publishes and ends.

A component's `__main__.py` calls `main` with two functions:

- `inputs(context)` gives the digest of everything the step reads. It must be quick: it is all that a cached step does.
- `work(context)`, when the identity is known, does the step's work in `context.scratch`, leaves the files to publish in
  `context.out` and returns an `Outcome`. It runs only when the store has no complete result for this identity.
"""

from __future__ import annotations

import argparse
import gc
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
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from regraft import escaped, locations, pipeline, processor, recipe, settings, snapshot
from regraft.digests import sha256
from regraft.errors import AlreadyExists, BadInput, Exit, NotFound, Refused, RegraftError, Temporary
from regraft.ledger import Entry, Ledger
from regraft.manifest import Cost, Manifest, Refusal
from regraft.parts import Recipe
from regraft.store import Store


@dataclass(kw_only=True)
class Outcome:
    """What a step found out; see `Manifest` for the fields."""

    metrics: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    refused: str | None = None
    refused_by: Refusal | None = None

    def __post_init__(self) -> None:
        if (self.refused is None) != (self.refused_by is None):
            raise ValueError("`refused` and `refused_by` belong together")


@dataclass(kw_only=True)
class Context:
    """What a step knows before its identity: the recipe, as far as the step declares it, store, run, and scratch."""

    recipe: Recipe
    store: Store
    run: str
    step: pipeline.Step
    scratch: Path
    recipe_sha256: str = ""
    """Digest of the recipe's file, by which the store keeps it."""
    ledger: Ledger = field(init=False)
    _results: dict[str, Manifest] = field(init=False, default_factory=dict)
    _progress: tuple[float, float] = field(init=False, default=(0.0, 0.0))

    def __post_init__(self) -> None:
        self.recipe = pipeline.for_step(self.recipe, self.step)
        self.ledger = Ledger(self.store)

    def result(self, step: str) -> Manifest:
        """The manifest of a step before this one, in this run; read once.

        Raises:
            Refused: that step was refused by a gate.
            BadInput: that step has not run.
        """
        if step not in self._results:
            self._results[step] = upstream(self.store, self.run, step, command=self._command(step))
        return self._results[step]

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


@dataclass(kw_only=True)
class Work(Context):
    """What a step knows when it works: also the digests of its inputs, its identity, and where its results go."""

    inputs: dict[str, str]
    identity: str
    on_terminate: Callable[[], None] | None = None
    """Called at SIGTERM instead of stopping at once, by a step that has something to save first."""

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


def bound(store: Store, entry: Entry) -> Manifest:
    """The finetune that an entry made champion.

    Raises:
        NotFound: the store lacks it.
        BadInput: it is not what became champion, or the verdict behind it is another: files and manifest were replaced.
    """
    trained = result_of(store, "finetune", entry.model)
    pairs = [("finetune", entry.model, trained.digest, entry.model_digest)]
    if entry.verdict_digest and (judged := store.manifest(f"evaluate/{entry.evaluation}")):
        verdict = judged.outputs.get("verdict.json")
        pairs.append(("evaluate", entry.evaluation, verdict.sha256 if verdict else "none", entry.verdict_digest))
    for step, identity, digest, named in pairs:
        if named not in (None, digest):
            raise BadInput(
                f"is not what version {entry.version} became champion by: its digest is {digest[:12]}, and the ledger's"
                f" entry {entry.sequence} names {str(named)[:12]}",
                where=store.where(f"{step}/{identity}"),
                state="nothing was changed, and what is served serves on",
                next="find out who replaced it, and bring it back from the bucket's version history",
            )
    return trained


def upstream(store: Store, run: str, step: str, *, command: str | None = None) -> Manifest:
    """The manifest that a run's pointer for a step names. Raises Refused, BadInput."""
    try:
        pointer = store.pointer(run, step)
    except NotFound as error:
        raise NotFound(
            f"step {step} has not run in run {run}",
            where=store.where(f"runs/{run}/{step}.json"),
            next=command,
        ) from error
    if pointer.state == "begun":
        raise NotFound(f"step {step} has not ended in run {run}: it is at work, or was killed", next=command)
    if pointer.state == "failed":
        raise NotFound(f"step {step} failed in run {run}: {pointer.error}", next=command)
    manifest = result_of(store, step, pointer.identity or "")
    if manifest.refused:
        raise Refused(f"{step} refused run {run}: {manifest.refused}", where=store.where(f"runs/{run}"))
    return manifest


class _Terminated(BaseException):
    """SIGTERM arrived."""


def identity_document(step: pipeline.Step, recipe: Recipe, inputs: dict[str, str]) -> dict[str, Any]:
    """All that determines a step's output; its digest is the identity."""
    return {
        "step": step.name,
        "inputs": inputs,
        "recipe": pipeline.recipe_part(recipe, step),
        "code": pipeline.code_digest(step, recipe.task),
        "libraries": pipeline.library_versions(step, recipe.task),
    }


def main(
    name: str,
    *,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Work], Outcome],
    verify: Callable[[Work, Manifest], bool] | None = None,
) -> NoReturn:
    """Runs a step from the command line and ends the process with one of the exit codes.

    Args:
        verify: asked before a cached result is used, by a step whose effect lies outside the store; False: run again.
    """
    escaped.stderr(locations.as_written)
    step = pipeline.step(name)
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}", description=f"regraft step: {step.summary}.")
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--store", required=True, help="fsspec URL of the store, such as s3://bucket/prefix")
    parser.add_argument("--run", required=True, help="run id: the end of the data window, such as 2026-11-24T03-00")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # what libraries will change is for those who program
    code = _run(step, Path(arguments.recipe), arguments.store, arguments.run, inputs, work, verify)
    gc.freeze()  # the interpreter would search all it holds for cycles before it ends
    sys.exit(code)


def follow_main(name: str, *, follow: Callable[[Recipe, Store, bool], tuple[dict[str, Any], bool]]) -> NoReturn:
    """Compares a server with the ledger from the command line, and with --repair makes it follow; prints JSON.

    Ends the process with 0 where the server agrees, or does now, with 10 where it differs, or as an error says. The
    recipe given names the model; how that is served says the recipe that the champion was deployed with.

    Args:
        name: of the component that the server is the business of.
        follow: given recipe, store and whether to repair, gives what to print, and whether the server agrees.
    """
    escaped.stderr(locations.as_written)
    about = "Says where a server differs from the ledger."
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}.follow", description=about)
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--store", required=True, help="fsspec URL of the store")
    parser.add_argument("--repair", action="store_true", help="make it follow, instead of only naming what differs")
    arguments = parser.parse_args()
    try:
        declared = recipe.load(arguments.recipe, environment=None)  # it asks for nothing: what is served has to follow
        store = Store(arguments.store, declared.name)
        if head := Ledger(store).head():
            with suppress(BadInput):  # somebody may have removed old runs, or an older regraft took what this refuses
                declared = snapshot.of_champion(store, head.model, head.run)
        document, agrees = follow(declared, store, arguments.repair)
    except RegraftError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit)
    print(json.dumps(document))
    sys.exit(Exit.DONE if agrees else Exit.REFUSED)


def _run(
    step: pipeline.Step,
    path: Path,
    url: str,
    run: str,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Work], Outcome],
    verify: Callable[[Work, Manifest], bool] | None,
) -> Exit:
    context: Context | None = None
    begun: list[Work] = []

    def terminate(signum: int, frame: FrameType | None) -> None:
        if begun and begun[0].on_terminate is not None:
            begun[0].on_terminate()
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
            content = recipe.read(path)
            declared = recipe.parse(recipe.decode(content, where=str(path)), where=str(path))
            pipeline.run_time(run)
            os.environ.update(pipeline.threads(declared, step))
            store = Store(url, declared.name)
            context = Context(recipe=declared, store=store, run=run, step=step, scratch=Path(scratch))
            context.recipe_sha256 = snapshot.keep(store, content)
            return _cached_or_worked(context, inputs, work, verify, begun)
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
                mend = error.next and locations.as_written(error.next)
                about = {"error": locations.as_written(error.what), "next": mend, "exit": int(error.exit)}
                _point(context, context.store.replace, state="failed", **about)
        return error.exit


def _cached_or_worked(
    context: Context,
    inputs: Callable[[Context], dict[str, str]],
    work: Callable[[Work], Outcome],
    verify: Callable[[Work, Manifest], bool] | None,
    begun: list[Work],
) -> Exit:
    """Args: begun: is given the work, so that a signal finds it."""
    started, cpu = time.monotonic(), _cpu_seconds()
    step, store, digests = context.step, context.store, inputs(context)
    document = identity_document(step, context.recipe, digests)
    known = {each.name: getattr(context, each.name) for each in fields(context) if each.init}
    at_work = Work(**known, inputs=digests, identity=sha256(document))
    at_work.ledger, at_work._results = context.ledger, context._results  # which have read some of it
    begun.append(at_work)
    manifest = store.manifest(at_work.prefix)
    if manifest is not None and (_forced(at_work) or (verify is not None and not verify(at_work, manifest))):
        store.clear(at_work.prefix)
        manifest = None
    cached = manifest is not None
    if manifest is None:
        with suppress(AlreadyExists):  # what an earlier try left behind stays until this one ends
            _point(at_work, store.create, state="begun", identity=at_work.identity)
        outcome = work(at_work)
        manifest = store.publish(
            at_work.prefix,
            at_work.out,
            {
                "step": step.name,
                "identity": at_work.identity,
                "document": document,
                "metrics": outcome.metrics,
                "measured": outcome.measured,
                "refused": outcome.refused,
                "refused_by": outcome.refused_by,
                "run": at_work.run,
                "recipe_sha256": at_work.recipe_sha256,
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
    pointer: dict[str, Any] = {"state": "done", "identity": at_work.identity, "cached": cached}
    if manifest.refused:
        pointer |= {"state": "refused", "refused": manifest.refused, "refused_by": manifest.refused_by}
    _point(at_work, store.replace, **pointer, seconds=time.monotonic() - started)
    if manifest.refused:
        print(f"{step.name}: refused: {escaped.line(manifest.refused)}", file=sys.stderr, flush=True)
        return Exit.REFUSED
    return Exit.DONE


def made_elsewhere(manifest: Manifest) -> str | None:
    """A clause about a result that was made on another kind of processor than this one, which would make another."""
    here = processor.kind()
    if manifest.processor in (None, here):
        return None
    return f"it was made on another kind of processor: {manifest.processor}; here: {here}"


def _forced(context: Work) -> bool:
    """Whether somebody wants the work done again (REGRAFT_FORCE=1). What a champion stands on is never cleared."""
    if os.environ.get("REGRAFT_FORCE") != "1":
        return False
    entries = context.ledger.of(context.inputs.get("model", context.identity))
    return all(context.identity not in (entry.model, entry.evaluation) for entry in entries)


def _point(context: Context, write: Callable[[str, bytes], None], **pointer: Any) -> None:
    """Writes the run's pointer to what became of this step."""
    document = {"step": context.step.name, "run": context.run, "at": datetime.now(UTC).isoformat()}
    document |= {"recipe_sha256": context.recipe_sha256, **pointer}
    write(f"runs/{context.run}/{context.step.name}.json", json.dumps(document, indent=1).encode())


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in _WHO]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
