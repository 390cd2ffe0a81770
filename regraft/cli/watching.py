"""What a person sees while steps run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from regraft.pipeline import Step
from regraft.runners.local import StepEnded
from regraft.summary import MARKS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

QUIET_SECONDS = 15.0
"""Least time between two lines of progress of a step where there is no terminal."""


def one_line(ended: StepEnded) -> str:
    """One line on how a step ended."""
    note = "cached" if ended.cached else f"{ended.seconds:.1f} s" if ended.state == "done" else ended.state
    return f"{MARKS[ended.state]} {ended.step:<9} [dim]{note}[/]"


class Lines:
    """For logs: one line when a step starts and ends, one now and then in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def started(self, step: Step) -> None:
        self._last = time.monotonic()

    def progress(self, step: Step, done: float, text: str) -> None:
        if time.monotonic() - self._last > QUIET_SECONDS:
            self._last = time.monotonic()
            self._console.print(f"  {step.name:<9} {done:4.0%} {escape(text)}")

    def retrying(self, step: Step, seconds: float, why: str) -> None:
        self._console.print(f"  {step.name:<9} again in {seconds:.0f} s: {escape(why)}")

    def ended(self, ended: StepEnded) -> None:
        self._console.print(one_line(ended))


class Bars(Lines):
    """For terminals: a bar for the step that runs, a line for each that ended."""

    def __init__(self, console: Console, bars: Progress) -> None:
        super().__init__(console)
        self._bars = bars
        self._bar: TaskID | None = None

    def started(self, step: Step) -> None:
        self._bar = self._bars.add_task(step.name, total=1.0, text=step.summary)

    def progress(self, step: Step, done: float, text: str) -> None:
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, text=escape(text))

    def ended(self, ended: StepEnded) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        super().ended(ended)


@contextmanager
def watching(console: Console) -> Iterator[Lines]:
    """Bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(console)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[text]}[/]"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bars(console, bars)
