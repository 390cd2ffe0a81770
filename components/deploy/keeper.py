"""Keeps a Triton server up: the laptop stack has no kubelet and no Docker that starts a dead server again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from regraft.errors import BadInput, RegraftError

QUICK_SECONDS = 20.0
"""A server that lived no longer has not got over what killed the one before it."""
PAUSE_SECONDS = 1.0
MOST_QUICK_DEATHS = 5


def keep(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    deaths: Path,
    prepare: Callable[[], None],
    say: Callable[[str], None],
    quick: float = QUICK_SECONDS,
    pause: float = PAUSE_SECONDS,
) -> int:
    """Runs a server until somebody stops it, and starts it again when it dies. Passes SIGTERM and SIGINT on to it.

    A server that soon ends by itself at its first start was started wrongly, so it is not tried again.

    Args:
        deaths: file that takes one line for each death; removed when this starts.
        prepare: runs in the child before it becomes the server.
        say: is told of each death.
        quick: seconds; see QUICK_SECONDS.
        pause: seconds before it is started again.

    Returns:
        The exit status of the server that was stopped, or that could not be started.

    Raises:
        BadInput: the file cannot be written.
        RegraftError: it died MOST_QUICK_DEATHS times in a row within `quick` seconds.
    """
    try:
        deaths.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot be written: {error.strerror}", where=str(deaths), next="name a file, not a folder"
        ) from error
    current: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for process in current:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    count = quick_deaths = 0
    while True:
        started = time.monotonic()
        process = subprocess.Popen(command, env=dict(environment), start_new_session=True, preexec_fn=prepare)
        current[:] = [process]
        if stopped:  # the signal may have come while there was no process to pass it on to
            process.terminate()
        status = process.wait()
        soon = time.monotonic() - started < quick
        with suppress(ProcessLookupError):  # what it started holds its ports
            os.killpg(process.pid, signal.SIGKILL)
        if stopped or status == 0 or (status > 0 and soon and count == 0):
            return max(status, 0)
        count += 1
        quick_deaths = quick_deaths + 1 if soon else 1
        reason = f"ended with status {status}" if status > 0 else f"died of signal {-status} ({_name(-status)})"
        with deaths.open("a") as lines:
            lines.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC {reason}\n")
        if quick_deaths >= MOST_QUICK_DEATHS:
            raise RegraftError(
                f"tritonserver {reason}, {quick_deaths} times in a row within {quick:g} s: it is not started again",
                where=str(deaths),
                state="no model is served",
                next="read the log above, then regraft down and regraft up",
            )
        say(f"tritonserver {reason}, death {count} since it was first started: it is started again")
        deadline = time.monotonic() + pause
        while not stopped and time.monotonic() < deadline:
            time.sleep(0.05)
        if stopped:
            return 0


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "no name"
