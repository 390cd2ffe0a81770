"""A race of trainings: they take turns on one machine, and each stops where it is good enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import Trainer, TrainerCallback

LIMIT = 20
"""Epochs after which a contestant gives up."""
Turn = tuple[Any, float, float]
"""A contestant's model after one more turn, with seconds and CPU seconds of training so far."""


class Turns(TrainerCallback):
    """Stops the trainer for an evaluation, until it is its turn again; counts seconds and CPU seconds in between."""

    def __init__(self, every: int, batch: int) -> None:
        self.every = max(1, every // batch)
        self.mine, self.theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds = self.cpu = 0.0
        self.ending = False
        self._started = (0.0, 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step % self.every == 0:
            self.seconds += time.perf_counter() - self._started[0]
            self.cpu += time.process_time() - self._started[1]
            self.theirs.release()
            self._wait()
        control.should_training_stop = self.ending
        return control

    def _wait(self) -> None:
        self.mine.acquire()
        self._started = (time.perf_counter(), time.process_time())


def turns(trainer: Trainer, every: int, batch: int) -> Iterator[Turn]:
    """Trains in a thread, one interval a turn: the model, and seconds and CPU seconds of training so far."""
    counted = Turns(every, batch)
    trainer.add_callback(counted)
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()
    try:
        while True:
            counted.mine.release()
            while not counted.theirs.acquire(timeout=0.2):
                if not thread.is_alive():
                    return
            yield trainer.model, counted.seconds, counted.cpu
    finally:
        counted.ending = True
        counted.mine.release()
        thread.join()


def loop(model: Any, dataset: Any, learn: Callable[..., None], *, every: int, batch: int) -> Iterator[Turn]:
    """The loop of a tutorial: shuffled batches, AdamW at 2e-5; one interval a turn, as `turns`.

    Args:
        learn: gives a batch's gradients to the model.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    seconds = cpu = 0.0
    steps, started = 0, (time.perf_counter(), time.process_time())
    for _ in range(LIMIT):
        for columns in torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True):
            model.train()
            learn(*columns)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps % max(1, every // batch) == 0:
                seconds += time.perf_counter() - started[0]
                cpu += time.process_time() - started[1]
                yield model, seconds, cpu
                started = (time.perf_counter(), time.process_time())


def race(
    contestants: Mapping[str, Callable[[], Iterator[Turn]]],
    score: Callable[[Any], float],
    target: float,
    *,
    title: str,
    metric: str,
    tokens: float | None = None,
) -> None:
    """Lets all train in turns until each is at the target, and prints what that took beside the first of them.

    Args:
        score: how good a model is; the more the better.
        tokens: how many a turn learns from, where tokens a second are of interest.
    """
    running = {name: start() for name, start in contestants.items()}
    reached: dict[str, tuple[float, float, float]] = {}
    best, spent = dict.fromkeys(contestants, float("-inf")), dict.fromkeys(contestants, (0, 0.0))
    while running:
        for name in list(running):
            turn = next(running[name], None)
            if turn is None:
                del running[name]
                continue
            model, seconds, cpu = turn
            spent[name] = (spent[name][0] + 1, seconds)
            model.eval()
            best[name] = max(best[name], score(model))
            model.train()
            if best[name] >= target:
                reached[name] = (best[name], seconds, cpu)
                running.pop(name).close()
    columns = [metric, "seconds", "CPU seconds", "time against regraft", "CPU against regraft"]
    table = Table("contestant", title=title)
    for column in [*columns, *(["tokens a second"] if tokens else [])]:
        table.add_column(column, justify="right")
    ours = reached.get(next(iter(contestants)))
    for name in contestants:
        turns, seconds = spent[name]
        speed = [f"{turns * tokens / seconds:,.0f}" if seconds else ""] if tokens else []
        if name not in reached:
            table.add_row(name, f"{best[name]:.3f}", "did not get there", "", "", "", *speed)
            continue
        score_of, seconds, cpu = reached[name]
        ratios = (f"{seconds / ours[1]:.1f} x", f"{cpu / ours[2]:.1f} x") if ours else ("", "")
        table.add_row(name, f"{score_of:.3f}", f"{seconds:.0f}", f"{cpu:.0f}", *ratios, *speed)
    Console(width=130).print(table)
