"""A step as a process: what it says, and that it never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regraft import process
from regraft.process import Ended

STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(300)"
)


def run(code: str, *, seconds: float | None = None) -> tuple[Ended, list[str], list[tuple[float, str]]]:
    lines: list[str] = []
    progress: list[tuple[float, str]] = []
    with process.started([sys.executable, "-c", code], os.environ) as running:
        ended = process.followed(
            running, say=lines.append, progress=lambda done, text: progress.append((done, text)), seconds=seconds
        )
    return ended, lines, progress


def test_progress_is_no_word_and_all_lines_are_heard() -> None:
    code = (
        "import sys\nprint('progress 0.250 a quarter')\nprint()\nprint('validate: bad', file=sys.stderr)\nsys.exit(20)"
    )
    ended, lines, progress = run(code)
    assert ended == Ended(exit=20, words=("validate: bad",))
    assert lines == ["progress 0.250 a quarter\n", "\n", "validate: bad\n"]
    assert progress == [(0.25, "a quarter")]


def test_of_many_words_the_last_are_kept() -> None:
    ended, lines, _ = run("for i in range(100): print(i)")
    assert (ended.words[-1], len(ended.words), len(lines)) == ("99", process.WORDS, 100)


def test_a_document_is_kept_apart_from_words(tmp_path: Path) -> None:
    code = "import sys\nprint('{}')\nprint('deploy: a warning', file=sys.stderr)"
    command = [sys.executable, "-c", code]
    with (tmp_path / "document").open("w") as file, process.started(command, os.environ, document=file) as running:
        ended = process.followed(running, say=lambda line: None)
    assert ended.words == ("deploy: a warning",)
    assert (tmp_path / "document").read_text() == "{}\n"


def test_one_that_hears_nothing_is_killed_after_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    ended, lines, _ = run(STUBBORN, seconds=2)
    assert lines == ["deaf\n"]
    assert (ended.exit, ended.overdue) == (-signal.SIGKILL, True)


@pytest.mark.parametrize("group", [True, False])
def test_an_error_of_whoever_follows_it_leaves_no_step_at_work(group: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)

    def say(line: str) -> None:
        raise KeyboardInterrupt

    command = [sys.executable, "-c", STUBBORN]
    with pytest.raises(KeyboardInterrupt), process.started(command, os.environ, group=group) as running:
        process.followed(running, say=say)
    assert running.returncode == -signal.SIGKILL


def test_what_it_started_is_killed_with_it_though_its_exit_code_was_taken() -> None:
    """`Popen.poll` may take the exit code before whoever watches the group looks."""
    code = "import subprocess\nprint(subprocess.Popen(['sleep', '300']).pid, flush=True)"
    began = time.monotonic()
    with process.started([sys.executable, "-c", code], os.environ) as running:
        running.wait()
        ended = process.followed(running, say=lambda line: None)
    assert ended.exit == 0
    assert time.monotonic() - began < 60
    state = subprocess.run(["ps", "-o", "stat=", "-p", ended.said], capture_output=True, text=True).stdout.strip()
    assert state in ("", "Z")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, None),
        (75, None),
        (-9, "the process was killed by SIGKILL: out of memory, most likely"),
        (137, "the process was killed by SIGKILL"),
        (143, "the process was killed by SIGTERM"),
        (-40, "the process was killed by signal 40"),
    ],
)
def test_how_a_signal_is_said(code: int, said: str | None) -> None:
    assert process.killed(code) == said
