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
from typing import Any, Literal, Protocol

from regraft import pipeline, recipe
from regraft.errors import BadInput, Exit, NotFound, RegraftError, Temporary
from regraft.store import Store

ATTEMPTS = 4
"""How often a step that found a server away, or that was killed, is started in all."""
BACKOFF_SECONDS = 1.0
"""Wait before the second attempt; it doubles each time, up to a minute."""

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
            exit_code, attempts, said = _attempts(step, command, started, log, watcher, current)
            ended.append(_ended(results, run, step, exit_code, attempts, said, log))
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
) -> tuple[int, int, str]:
    """Starts a step until it ends otherwise than temporarily: exit code, number of attempts, its last words."""
    import tenacity

    said = ""

    def once() -> int:
        nonlocal said
        _stop_if_told(current)
        exit_code, said = _process(step, command, environment, log, watcher, current)
        if exit_code != Exit.DONE:
            _stop_if_told(current)
        return exit_code

    def announce(state: tenacity.RetryCallState) -> None:
        watcher.retrying(step, state.next_action.sleep if state.next_action else 0.0, said)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=BACKOFF_SECONDS, max=60),
        # a negative code is a signal: the out-of-memory killer, most often
        retry=tenacity.retry_if_result(lambda code: code == Exit.TEMPORARY or code < 0),
        before_sleep=announce,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else Exit.TEMPORARY,
    )
    exit_code = int(retrying(once))
    return exit_code, int(retrying.statistics["attempt_number"]), said


def _process(
    step: pipeline.Step,
    command: list[str],
    environment: dict[str, str],
    log: Path,
    watcher: Watcher,
    current: _Current,
) -> tuple[int, str]:
    """Runs one process to its end, its output into the log: exit code and its last words."""
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
        with _group_ends_with(process):
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                if match := re.match(r"progress (\d\.\d+) (.*)", line):
                    watcher.progress(step, float(match[1]), match[2])
                elif line.strip():
                    last = line.strip()
        process.wait()
        current.process = None
    return process.returncode, last


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


def _ended(store: Store, run: str, step: pipeline.Step, exit_code: int, attempts: int, said: str, log: Path) -> Ended:
    """What the run's pointer says of the step; its last words where it could not write one."""
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
