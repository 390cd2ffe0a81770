"""The trial: a private Triton server loads a version and answers golden requests before any client can reach it."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from components.deploy import export, replica, serve
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from regraft import tally, tasks
from regraft.parts import Recipe

# Single requests that the latency is measured on; of a hundred, the 99th percentile is nearly the slowest.
REQUESTS = 200
# Rows that a replica answers once the trial is passed: enough that a wrong label map, tokenizer or head cannot hide.
ROWS = 500
# Seconds for a trial's rows in batches and alone, and for a replica's: where answers take long, fewer rows are asked.
TRIAL_SECONDS, ALONE_SECONDS, REPLICA_SECONDS = 120.0, 60.0, 30.0


def hold(*, recipe: Recipe, version: int, built: Path, golden: Golden, folder: Path) -> dict[str, Any]:
    """Tries a built version: the golden requests in batches, some of them alone.

    Args:
        folder: scratch; the private repository goes there.

    Returns:
        What was measured: largest difference and latency.

    Raises:
        NotServed: it does not load, answers wrongly or is too slow; `what` says which, with the numbers.
    """
    repository = folder / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    private = repository / recipe.name
    private.mkdir(parents=True)
    shutil.copytree(built, private / str(version))
    (private / "config.pbtxt").write_text(export.config(recipe, [version]), encoding="utf-8")
    token = secrets.token_hex(32)  # nobody else may control it either
    log = folder / "trial.log"
    with serve.running(repository=repository, log=log, token=token, timeout=replica.LOAD_SECONDS) as server:
        known = replica.index(server.address, recipe.name, token=token)
        state, reason = known.get(version, ("UNKNOWN", "Triton does not know it"))
        if state != "READY":
            raise NotServed(f"does not load: {reason}")
        with replica.calling(server.address, recipe, version) as ask:
            golden, batched = _in_batches(ask, recipe, version, golden, seconds=TRIAL_SECONDS)
            parity = _within_parity(recipe, golden, batched)
            _loses_nothing(recipe, golden, batched)
            alone, seconds = _one_by_one(ask, recipe, version, golden)
        parity_alone = _within_parity(recipe, golden.first(len(seconds)), alone)
        return {
            "rows": golden.rows.num_rows,
            "parity": max(parity, parity_alone),
            "batch_effect": _independent(recipe, alone, batched),
            **_in_time(recipe, seconds),
        }


def agree(address: str, *, recipe: Recipe, version: int, golden: Golden) -> None:
    """Compares a replica's answers with the offline ones. Raises NotServed when they are too far apart."""
    with replica.calling(address, recipe, version) as ask:
        asked, served = _in_batches(ask, recipe, version, golden.first(ROWS), seconds=REPLICA_SECONDS)
        _within_parity(recipe, asked, served)


def _in_batches(
    ask: replica.Ask, recipe: Recipe, version: int, golden: Golden, *, seconds: float
) -> tuple[Golden, Any]:
    """The requests that there was time for, all of them mostly, and the answers, as the task reads them."""
    size, batches, done, started = recipe.serving.max_batch_size, list[Any](), 0, time.monotonic()
    while done < golden.rows.num_rows and (done == 0 or time.monotonic() - started < seconds):
        batches.append(_answers(ask, version, golden.rows.slice(done, size)))
        done = min(done + size, golden.rows.num_rows)
    return golden.first(done), tasks.of(recipe.task).joined(batches)


def _one_by_one(ask: replica.Ask, recipe: Recipe, version: int, golden: Golden) -> tuple[Any, list[float]]:
    """The answers to REQUESTS single requests, or as many as there are rows or time for; seconds that each took."""
    answers, seconds, late = list[Any](), list[float](), 0
    for number in range(min(REQUESTS, golden.rows.num_rows)):
        row = golden.rows.slice(number, 1)
        started = time.perf_counter()
        answers.append(_answers(ask, version, row))
        seconds.append(time.perf_counter() - started)
        late += seconds[-1] * 1000 > recipe.serving.latency_budget_ms
        if late > REQUESTS / 50 or sum(seconds) > ALONE_SECONDS:
            break  # the 99th percentile can only be above the budget, or it takes too long to tell
    return tasks.of(recipe.task).joined(answers), seconds


def _answers(ask: replica.Ask, version: int, rows: Any) -> Any:
    answers, by = ask(rows)
    if by != version:
        raise NotServed(f"answers wrongly: version {by} answered instead")
    return answers


def _within_parity(recipe: Recipe, golden: Golden, served: Any) -> float:
    """How far the answers are from the offline ones. Raises NotServed."""
    task = tasks.of(recipe.task)
    if wrong := task.flaw(recipe, served, golden.answers):
        raise NotServed(f"answers wrongly: {wrong}")
    distance: float = task.distance(task.numbers(served), golden.answers)
    if distance > recipe.serving.parity:
        raise NotServed(
            f"answers wrongly: {task.COMPARED} differs by {distance:.4f} from the offline one; "
            f"serving.parity allows {recipe.serving.parity:g}"
        )
    return distance


def _independent(recipe: Recipe, alone: Any, batched: Any) -> float:
    """How far the first answers are from those to the same texts alone. Raises NotServed."""
    task = tasks.of(recipe.task)
    one = task.numbers(alone)
    effect: float = task.distance(one, task.numbers(batched).slice(0, one.num_rows))
    if effect > recipe.serving.parity:
        raise NotServed(
            f"answers wrongly: {task.COMPARED} differs by {effect:.4f} with the rows that share its batch; "
            f"serving.parity allows {recipe.serving.parity:g}"
        )
    return effect


def _loses_nothing(recipe: Recipe, golden: Golden, served: Any) -> None:
    """Served answers must not surely lose more of the gate's metric than a challenger may."""
    gates, task, metric = recipe.gates, tasks.of(recipe.task), tasks.heard_by(recipe)
    now, before = (task.tally(recipe, golden.rows, said) for said in (task.numbers(served), golden.answers))
    lost = tally.difference(now, before, task.METRICS[metric], confidence=gates.confidence)
    if lost.high < -gates.margin:
        raise NotServed(
            f"answers wrongly: it loses {-lost.point:.4f} of {metric} ({-lost.high:.4f} to {-lost.low:.4f}) on "
            f"{golden.rows.num_rows} holdout rows; gates.margin allows {gates.margin:g}"
        )


def _in_time(recipe: Recipe, seconds: list[float]) -> dict[str, float]:
    """Percentiles of single requests, in milliseconds. Raises NotServed where the 99th is above the budget."""
    import numpy as np

    p50, p99 = (float(np.quantile(seconds, q)) * 1000 for q in (0.5, 0.99))
    if p99 > recipe.serving.latency_budget_ms:
        raise NotServed(
            f"is too slow: 99 of 100 single requests take up to {p99:.0f} ms; "
            f"serving.latency_budget_ms allows {recipe.serving.latency_budget_ms:g}"
        )
    return {"p50_ms": p50, "p99_ms": p99}
