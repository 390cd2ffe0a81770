"""The trial: a private Triton server loads a version and answers golden requests before any client can reach it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from components.deploy import export, replica, serve
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from regraft import intervals
from regraft.recipe import Recipe

# Single requests that the latency is measured on; of a hundred, the 99th percentile is nearly the slowest.
REQUESTS = 200


def hold(*, recipe: Recipe, version: int, built: Path, golden: Golden, folder: Path) -> dict[str, Any]:
    """Tries a built version.

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
    with serve.running(repository=repository, log=folder / "trial.log", timeout=replica.LOAD_SECONDS) as server:
        state, reason = replica.index(server.address, recipe.name).get(version, ("UNKNOWN", "Triton does not know it"))
        if state != "READY":
            raise NotServed(f"does not load: {reason}")
        measured = agree(server.address, recipe=recipe, version=version, golden=golden)
        return {**measured, **_in_time(server.address, recipe=recipe, version=version, golden=golden)}


def agree(address: str, *, recipe: Recipe, version: int, golden: Golden) -> dict[str, Any]:
    """Compares a replica's answers with the offline ones. Raises NotServed when they are too far apart."""
    import numpy as np

    size = recipe.serving.max_batch_size
    labels: list[str] = []
    answers = []
    with replica.calling(address, recipe.name, version) as ask:
        for start in range(0, len(golden.texts), size):
            some, scores, answered = ask(golden.texts[start : start + size])
            if answered != version:
                raise NotServed(f"version {answered} answered instead", where=address)
            labels += some
            answers.append(scores)
    served = np.concatenate(answers)
    if served.shape != golden.probabilities.shape or not np.isfinite(served).all():
        raise NotServed(f"answers wrongly: shape {served.shape}, finite: {bool(np.isfinite(served).all())}")
    difference = float(np.abs(served - golden.probabilities).max())
    if difference > recipe.serving.parity:
        raise NotServed(
            f"answers wrongly: a probability differs by {difference:.4f} from the offline one; "
            f"serving.parity allows {recipe.serving.parity:g}"
        )
    if labels != [recipe.data.labels[i] for i in served.argmax(axis=1)]:
        raise NotServed("answers wrongly: the label is not the one with the highest probability")
    if recipe.serving.precision == "int8":
        _gates_hold(recipe, golden, served)
    return {"parity": difference}


def _gates_hold(recipe: Recipe, golden: Golden, served: Any) -> None:
    """Quantised answers must not lose more of the gate's metric than a challenger may, unless it may be chance."""
    import numpy as np

    gates = recipe.gates
    lost = intervals.difference(
        np.asarray(golden.labels),
        served.astype(np.float64),
        golden.probabilities.astype(np.float64),
        metric=gates.metric,
        confidence=gates.confidence,
    )
    if lost.point < -gates.margin and lost.high < 0:
        raise NotServed(
            f"int8 loses {-lost.point:.4f} of {gates.metric} ({-lost.high:.4f} to {-lost.low:.4f}) on "
            f"{len(golden.labels)} holdout rows; gates.margin allows {gates.margin:g}"
        )


def _in_time(address: str, *, recipe: Recipe, version: int, golden: Golden) -> dict[str, Any]:
    import numpy as np

    seconds = []
    with replica.calling(address, recipe.name, version) as ask:
        for number in range(REQUESTS):
            started = time.perf_counter()
            ask([golden.texts[number % len(golden.texts)]])
            seconds.append(time.perf_counter() - started)
            if sum(one * 1000 > recipe.serving.latency_budget_ms for one in seconds) > REQUESTS / 50:
                break  # the 99th percentile can only be above the budget
    p50, p99 = (float(np.quantile(seconds, q)) * 1000 for q in (0.5, 0.99))
    if p99 > recipe.serving.latency_budget_ms:
        raise NotServed(
            f"is too slow: 99 of 100 single requests take up to {p99:.0f} ms; "
            f"serving.latency_budget_ms allows {recipe.serving.latency_budget_ms:g}"
        )
    return {"p50_ms": p50, "p99_ms": p99}
