"""Runs a recipe on this machine: each step a process with the same command line as in a container."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, cast

from regraft import pipeline, recipe
from regraft.errors import BadInput, Exit, NotFound, RegraftError, Temporary
from regraft.store import Store

ATTEMPTS = 4
"""How often a step that found a server away, or that was killed, is started in all."""
BACKOFF_SECONDS = 1.0
"""Wait before the second attempt; it doubles each time, up to a minute."""

GRACE_SECONDS = 60.0
"""What a step has to save its work in once its time is over, before it is killed."""

State = Literal["done", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class Ended:
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

    def ended(self, ended: Ended) -> None: ...


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
) -> list[Ended]:
    """Runs the steps of a recipe until one is refused or fails; gives how each ended, in order.

    SIGINT and SIGTERM are passed on to the step as SIGTERM: it saves what it has and ends, and the same command
    resumes. A second signal kills it, which loses no more than the work since its last checkpoint.

    Args:
        path: the recipe's file.
        store: URL of the store.
        run: run id.
        logs: folder of the logs: `<logs>/<recipe>/<run>/<step>.log`.
        environment: variables that the steps get beside those of this process.

    Raises:
        Interrupted: a signal stopped it.
        BadInput: the recipe or the run id is wrong.
    """
    declared = recipe.load(path)
    pipeline.run_time(run)
    results = Store(store, declared.name)
    folder = Path(logs) / declared.name / run
    folder.mkdir(parents=True, exist_ok=True)
    ended: list[Ended] = []
    current = _Current()
    with _signals_passed_on(current):
        for step in pipeline.STEPS:
            command = [sys.executable, "-m", f"components.{step.name}"]
            command += ["--recipe", str(path), "--store", store, "--run", run]
            started = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
            log = folder / f"{step.name}.log"
            watcher.started(step)
            last, attempts = _attempts(step, command, started, log, watcher, current)
            exit_code = last.exit
            ended.append(_ended(results, run, step, last, attempts, log))
            watcher.ended(ended[-1])
            if exit_code != Exit.DONE:
                break
    return ended


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """How a process ended."""

    exit: int
    said: str
    """Its last words."""
    overdue: bool
    """Whether it was stopped because its time was over."""


def _attempts(
    step: pipeline.Step,
    command: list[str],
    environment: dict[str, str],
    log: Path,
    watcher: Watcher,
    current: _Current,
) -> tuple[_Attempt, int]:
    """Starts a step until it ends otherwise than temporarily, or is overdue: the last attempt, and their number."""
    import tenacity

    def once() -> _Attempt:
        _stop_if_told(current)
        attempt = _process(step, command, environment, log, watcher, current)
        if attempt.exit != Exit.DONE:
            _stop_if_told(current)
        return attempt

    def result(state: tenacity.RetryCallState) -> _Attempt:
        return cast("tenacity.Future", state.outcome).result()  # type: ignore[no-any-return]

    def announce(state: tenacity.RetryCallState) -> None:
        watcher.retrying(step, state.next_action.sleep if state.next_action else 0.0, result(state).said)

    def again(attempt: _Attempt) -> bool:
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
) -> _Attempt:
    """Runs one process to its end, its output into the log."""
    last = ""
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent(),
        ) as process,
    ):
        current.process = process
        print(f"$ {' '.join(command)}", file=file, flush=True)
        with _group_ends_with(process), _in_time(process, step.timeout_minutes * 60) as overdue:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                if match := re.match(r"progress (\d\.\d+) (.*)", line):
                    watcher.progress(step, float(match[1]), match[2])
                elif line.strip():
                    last = line.strip()
        process.wait()
        current.process = None
    if overdue.is_set():
        last = f"did not end within {step.timeout_minutes:g} minutes and was stopped"
        return _Attempt(exit=Exit.TEMPORARY, said=last, overdue=True)
    return _Attempt(exit=process.returncode, said=last, overdue=False)


@contextmanager
def _in_time(process: subprocess.Popen[str], seconds: float) -> Iterator[threading.Event]:
    """Stops a process whose time is over, first by SIGTERM and then by SIGKILL; the event is set if it had to."""
    overdue, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        overdue.set()
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
            if not over.wait(GRACE_SECONDS):
                os.killpg(process.pid, signal.SIGKILL)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield overdue
    finally:
        over.set()
        watching.join()


@contextmanager
def _group_ends_with(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kills a process's group when the process itself is over: what it left behind may hold its output open."""

    def watch() -> None:
        with suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # leaves the exit code to Popen
            os.killpg(process.pid, signal.SIGKILL)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        watching.join()


def die_with_parent() -> Callable[[], None]:
    """What asks Linux to kill the step when this process dies, so that none runs on beside its own repetition."""
    if sys.platform != "linux":
        return lambda: None
    library, pr_set_pdeathsig = ctypes.CDLL(None), 1
    return lambda: library.prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def _signals_passed_on(current: _Current) -> Iterator[None]:
    def pass_on(signum: int, frame: FrameType | None) -> None:
        current.signals.append(signum)
        if current.process is None:
            _stop_if_told(current)
        elif len(current.signals) == 1:
            current.process.terminate()
        else:
            with suppress(ProcessLookupError):
                os.killpg(current.process.pid, signal.SIGKILL)

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


def _ended(store: Store, run: str, step: pipeline.Step, last: _Attempt, attempts: int, log: Path) -> Ended:
    """What the run's pointer says of the step; its last words where it could not write one, or not all."""
    exit_code, said = last.exit, last.said
    pointer: dict[str, Any] = {}
    with suppress(NotFound, ValueError):
        pointer = store.read_json(f"runs/{run}/{step.name}.json")
    states: dict[int, State] = {Exit.DONE: "done", Exit.REFUSED: "refused"}
    state = states.get(exit_code, "failed")
    says, next_command = None, None
    if state == "refused":
        says = said.removeprefix(f"{step.name}: refused: ")
        with suppress(RegraftError, KeyError):
            manifest = store.manifest(f"{step.name}/{pointer['identity']}")
            says = manifest.refused if manifest and manifest.refused else says
    elif last.overdue:
        says = said
    elif state == "failed":
        told = pointer.get("state") == "failed" and pointer.get("exit") == exit_code
        says = pointer["error"] if told else _killed(exit_code) or said or f"exit code {exit_code}"
        next_command = pointer.get("next") if told else f"less {log}"
    return Ended(
        step=step.name,
        exit=exit_code,
        state=state,
        cached=state != "failed" and bool(pointer.get("cached")),
        seconds=float(pointer.get("seconds", 0.0)),
        attempts=attempts,
        says=says,
        next=next_command,
        log=log,
    )


def _killed(exit_code: int) -> str | None:
    if exit_code >= 0:
        return None
    name = signal.Signals(-exit_code).name
    return f"the process was killed by {name}" + (": out of memory, most likely" if name == "SIGKILL" else "")


def failure(ended: Ended, *, command: str) -> RegraftError:
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
