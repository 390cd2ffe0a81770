"""A step as a process: its command line, how it is started, what it says, how it is stopped. Every runner asks here.

A follower is started in the same way. Light to import: Airflow's and Kubeflow's environments do.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from regraft import escaped

GRACE_SECONDS = 120
"""What a step has to save its work in once it is told to stop, before it is killed."""

ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",  # what it says is read while it works
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # pydantic would look through all that is installed for some, each time
}
"""Variables of every step, whatever its runner has."""

WORDS = 20
"""How many of its last words are kept."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    exit: int
    """Its exit code; the number of the signal, negative, where one ended it."""
    words: tuple[str, ...]
    """The last lines of what it said beside progress."""
    overdue: bool = False
    """Whether it was stopped because its time was over."""

    @property
    def said(self) -> str:
        """Its last words; empty where it said nothing."""
        return self.words[-1] if self.words else ""


def arguments(*, store: str, run: str | None = None, repair: bool = False) -> list[str]:
    """What a step is told beside its recipe; a follower has no run, and may repair."""
    return ["--store", store, *(["--run", run] if run else []), *(["--repair"] if repair else [])]


def command(module: str, recipe: str | Path, options: Iterable[str], *, python: str = sys.executable) -> list[str]:
    """The command line of a step.

    Args:
        module: such as components.finetune.
        recipe: the recipe's file.
        options: see `arguments`.
        python: the interpreter of the components' environment.
    """
    return [python, "-m", module, "--recipe", str(recipe), *options]


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], *, document: IO[str] | None = None, group: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Starts a step, for `followed` to read what it says. It is over when the block is left; an error there stops it.

    Args:
        environment: all its variables but `ENVIRONMENT`.
        document: where its standard output goes, if that is a document; else it is read with its standard error.
        group: it leads a process group, all of which ends with it: what it left behind may hold its output open. Not
            where the group that this process is in ends as one.
    """
    with (
        subprocess.Popen(
            command,
            env={**environment, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if document is None else document,
            stderr=subprocess.STDOUT if document is None else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=group,
            preexec_fn=_die_with_parent(),
        ) as process,
        _group_ends_with(process) if group else nullcontext(),
    ):
        try:
            yield process
        except BaseException:
            stop(process)
            raise


def followed(
    process: subprocess.Popen[str],
    *,
    say: Callable[[str], object],
    progress: Callable[[float, str], object] | None = None,
    seconds: float | None = None,
) -> Ended:
    """Reads what a step says until it has ended.

    Args:
        say: is given each line, with its end and in letters that are safe to show.
        progress: is given how far it is, from 0 to 1, and a few words on that.
        seconds: after which it is stopped.
    """
    words: deque[str] = deque(maxlen=WORDS)
    with _in_time(process, seconds) as overdue:
        for line in process.stdout or process.stderr or ():
            line = escaped.lines(line)
            say(line)
            if match := re.match(r"progress (\d\.\d+) (.*)", line):
                if progress:
                    progress(float(match[1]), match[2])
            elif line.strip():
                words.append(line.rstrip())
        code = process.wait()
    return Ended(exit=code, words=tuple(words), overdue=overdue.is_set())


def stop(process: subprocess.Popen[str]) -> None:
    """Tells a step to save its work and end, and kills it where it has not after `GRACE_SECONDS`."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            try:
                process.wait(GRACE_SECONDS)
            finally:  # also where somebody is tired of waiting
                kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a step and the group that it leads, if it does: no more is lost than the work since its last checkpoint."""
    with suppress(ProcessLookupError):
        if process.poll() is None and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def killed(code: int) -> str | None:
    """Says by which signal a process was ended; None where it ended by itself.

    Args:
        code: exit code; negative, or above 128 as shells and pods have it, where a signal ended it.
    """
    number = -code if code < 0 else code - 128
    if number <= 0:
        return None
    names = {known.value: known.name for known in signal.Signals}
    likely = ": out of memory, most likely" if code == -signal.SIGKILL else ""  # of a pod, Kubernetes says it
    return f"the process was killed by {names.get(number, f'signal {number}')}{likely}"


@contextmanager
def _in_time(process: subprocess.Popen[str], seconds: float | None) -> Iterator[threading.Event]:
    """Stops a process whose time is over; the event is set if it had to."""
    overdue, over = threading.Event(), threading.Event()

    def watch() -> None:
        if not over.wait(seconds):
            overdue.set()
            stop(process)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield overdue
    finally:
        over.set()
        watching.join()


@contextmanager
def _group_ends_with(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kills the group that a process leads when the process itself is over."""

    def watch() -> None:
        with suppress(ChildProcessError):  # somebody else has its exit code already
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # leaves the exit code to Popen
        with suppress(ProcessLookupError, PermissionError):  # as macOS says it of a group that is over
            os.killpg(process.pid, signal.SIGKILL)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        watching.join()


def _die_with_parent() -> Callable[[], None] | None:
    """What asks Linux to kill the step when this process dies, so that none runs on beside its own repetition."""
    if sys.platform != "linux":
        return None
    library, pr_set_pdeathsig = ctypes.CDLL(None), 1
    return lambda: library.prctl(pr_set_pdeathsig, signal.SIGKILL)
