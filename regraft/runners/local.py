"""Runs a recipe on this machine: each step a process with the same command line as in a container."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol, cast

from regraft import pipeline, process, recipe
from regraft.errors import BadInput, Exit, RegraftError, Temporary
from regraft.manifest import Pointer
from regraft.store import Store

ATTEMPTS = 4
"""How often a step that found a server away, or that was killed, is started in all."""
BACKOFF_SECONDS = 1.0
"""Wait before the second attempt; it doubles each time, up to a minute."""

State = Literal["done", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """How a step ended."""

    step: str
    exit: int
    state: State
    cached: bool
    seconds: float
    attempts: int
    says: str | None
    """Why it was refused or failed."""
    next: str | None
    """What to type, after a failure."""
    log: Path


class Watcher(Protocol):
    """Is told what happens while steps run."""

    def started(self, step: pipeline.Step) -> None: ...

    def progress(self, step: pipeline.Step, done: float, text: str) -> None:
        """`done` runs from 0 to 1."""

    def retrying(self, step: pipeline.Step, seconds: float, why: str) -> None: ...

    def ended(self, ended: StepEnded) -> None: ...


class Interrupted(Temporary):
    """Somebody stopped the run by SIGINT or SIGTERM."""


@dataclass
class _Current:
    """The process that signals are passed on to."""

    process: subprocess.Popen[str] | None = None
    signals: list[int] = field(default_factory=list)


def run(
    path: str | Path,
    *,
    store: str,
    run: str,
    logs: str | Path,
    watcher: Watcher,
    environment: Mapping[str, str] | None = None,
) -> list[StepEnded]:
    """Runs the steps of a recipe until one is refused or fails; gives how each ended, in order.

    SIGINT and SIGTERM are passed on to the step as SIGTERM: it saves what it has and ends, and the same command
    resumes. A second signal kills it, which loses no more than the work since its last checkpoint.

    Args:
        path: the recipe's file.
        store: URL of the store.
        run: run id.
        logs: folder of the logs: `<logs>/<recipe>/<run>/<step>.log`.
        environment: variables beside those of this process, of which each step gets what `pipeline.variables` says.

    Raises:
        Interrupted: a signal stopped it.
        BadInput: the recipe or the run id is wrong.
    """
    declared = recipe.load(path)
    pipeline.run_time(run)
    results = Store(store, declared.name)
    folder = Path(logs) / declared.name / run
    folder.mkdir(parents=True, exist_ok=True)
    ended: list[StepEnded] = []
    current = _Current()
    with _signals_passed_on(current):
        for step in pipeline.steps(declared.task):
            command = process.command(step.module, path, process.arguments(store=store, run=run))
            variables = pipeline.variables(step, {**os.environ, **(environment or {})})
            log = folder / f"{step.name}.log"
            watcher.started(step)
            last, attempts = _attempts(step, command, variables, log, watcher, current)
            exit_code = last.exit
            ended.append(_ended(results, run, step, last, attempts, log))
            watcher.ended(ended[-1])
            if exit_code != Exit.DONE:
                break
    return ended


def _attempts(
    step: pipeline.Step,
    command: list[str],
    environment: dict[str, str],
    log: Path,
    watcher: Watcher,
    current: _Current,
) -> tuple[process.Ended, int]:
    """Starts a step until it ends otherwise than temporarily, or is overdue: the last attempt, and their number."""
    import tenacity

    def once() -> process.Ended:
        _stop_if_told(current)
        attempt = _process(step, command, environment, log, watcher, current)
        if attempt.exit != Exit.DONE:
            _stop_if_told(current)
        return attempt

    def result(state: tenacity.RetryCallState) -> process.Ended:
        return cast("tenacity.Future", state.outcome).result()  # type: ignore[no-any-return]

    def announce(state: tenacity.RetryCallState) -> None:
        watcher.retrying(step, state.next_action.sleep if state.next_action else 0.0, result(state).said)

    def again(attempt: process.Ended) -> bool:
        # a negative code is a signal: the out-of-memory killer, most often
        return not attempt.overdue and (attempt.exit == Exit.TEMPORARY or attempt.exit < 0)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=BACKOFF_SECONDS, max=60),
        retry=tenacity.retry_if_result(again),
        before_sleep=announce,
        retry_error_callback=result,
    )
    return retrying(once), int(retrying.statistics["attempt_number"])


def _process(
    step: pipeline.Step,
    command: list[str],
    environment: dict[str, str],
    log: Path,
    watcher: Watcher,
    current: _Current,
) -> process.Ended:
    """Runs one process to its end, its output into the log."""
    with log.open("a", encoding="utf-8") as file, process.started(command, environment) as current.process:
        print(f"$ {' '.join(command)}", file=file, flush=True)
        ended = process.followed(
            current.process,
            say=partial(print, end="", file=file, flush=True),
            progress=partial(watcher.progress, step),
            seconds=step.timeout_minutes * 60,
        )
    current.process = None
    if ended.overdue:
        last = f"did not end within {step.timeout_minutes:g} minutes and was stopped"
        return replace(ended, exit=Exit.TEMPORARY, words=(last,))
    return ended


@contextmanager
def _signals_passed_on(current: _Current) -> Iterator[None]:
    def pass_on(signum: int, frame: FrameType | None) -> None:
        current.signals.append(signum)
        if current.process is None:
            _stop_if_told(current)
        elif len(current.signals) == 1:
            current.process.terminate()
        else:
            process.kill(current.process)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_if_told(current: _Current) -> None:
    if current.signals:
        name = signal.Signals(current.signals[0]).name
        raise Interrupted(f"stopped by {name}", state="all finished steps and checkpoints are kept")


def _ended(store: Store, run: str, step: pipeline.Step, last: process.Ended, attempts: int, log: Path) -> StepEnded:
    """What the run's pointer says of the step; its last words where it could not write one, or somebody damaged it."""
    exit_code, said = last.exit, last.said
    pointer: Pointer | None = None
    with suppress(BadInput):
        pointer = store.pointer(run, step.name)
    states: dict[int, State] = {Exit.DONE: "done", Exit.REFUSED: "refused"}
    state = states.get(exit_code, "failed")
    says, next_command = None, None
    if state == "refused":
        says = (pointer and (pointer.refused or pointer.error)) or said
    elif last.overdue:
        says = said
    elif state == "failed":
        recorded = pointer if pointer and pointer.state == "failed" and pointer.exit == exit_code else None
        says = recorded.error if recorded else process.killed(exit_code) or said or f"exit code {exit_code}"
        next_command = recorded.next if recorded else f"less {log}"
    return StepEnded(
        step=step.name,
        exit=exit_code,
        state=state,
        cached=state != "failed" and bool(pointer and pointer.cached),
        seconds=(pointer and pointer.seconds) or 0.0,
        attempts=attempts,
        says=says,
        next=next_command,
        log=log,
    )


def failure(ended: StepEnded, *, command: str) -> RegraftError:
    """The error that a failed step stands for.

    Args:
        command: what runs the recipe again.
    """
    kinds: dict[int, type[RegraftError]] = {Exit.BAD_INPUT: BadInput, Exit.TEMPORARY: Temporary}
    kind = Temporary if ended.exit < 0 else kinds.get(ended.exit, RegraftError)
    attempts = f" after {ended.attempts} attempts" if ended.attempts > 1 else ""
    return kind(
        f"step {ended.step} failed{attempts}: {ended.says}",
        state=f"the steps before it are kept; its log is {ended.log}",
        next=ended.next or f"{command}  (goes on where it stopped)",
    )
