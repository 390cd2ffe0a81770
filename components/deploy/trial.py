"""The trial: a private Triton server loads a version and answers golden requests before any client can reach it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.deploy import export, replica, serve
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from regraft import intervals
from regraft.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Single requests that the latency is measured on; of a hundred, the 99th percentile is nearly the slowest.
REQUESTS = 200
# Rows that a replica answers once the trial is passed: enough that a wrong label map, tokenizer or head cannot hide.
ROWS = 500


def hold(*, recipe: Recipe, version: int, built: Path, golden: Golden, folder: Path) -> dict[str, Any]:
    """Tries a built version: all golden requests in batches, some of them alone.

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
        with replica.calling(server.address, recipe.name, version) as ask:
            batched = _in_batches(ask, recipe, version, golden)
            parity = _within_parity(recipe, golden, *batched)
            _loses_nothing(recipe, golden, batched[1])
            alone, seconds = _one_by_one(ask, recipe, version, golden)
        parity_alone = _within_parity(recipe, golden.first(len(seconds)), *alone)
        return {
            "rows": len(golden.texts),
            "parity": max(parity, parity_alone),
            "batch_effect": _independent(recipe, alone[1], batched[1]),
            **_in_time(recipe, seconds),
        }


def agree(address: str, *, recipe: Recipe, version: int, golden: Golden) -> None:
    """Compares a replica's answers with the offline ones. Raises NotServed when they are too far apart."""
    some = golden.first(ROWS)
    with replica.calling(address, recipe.name, version) as ask:
        _within_parity(recipe, some, *_in_batches(ask, recipe, version, some))


Answers = tuple[list[str], "npt.NDArray[np.float32]"]
"""Labels, and probabilities of shape (texts, labels)."""


def _in_batches(ask: replica.Caller, recipe: Recipe, version: int, golden: Golden) -> Answers:
    import numpy as np

    size = recipe.serving.max_batch_size
    batches = [_answers(ask, version, golden.texts[at : at + size]) for at in range(0, len(golden.texts), size)]
    return [label for labels, _ in batches for label in labels], np.concatenate([scores for _, scores in batches])


def _one_by_one(ask: replica.Caller, recipe: Recipe, version: int, golden: Golden) -> tuple[Answers, list[float]]:
    """The answers to REQUESTS single requests, or as many as there are rows, and the seconds that each took."""
    import numpy as np

    answers, seconds, late = list[Answers](), list[float](), 0
    for text in golden.texts[:REQUESTS]:
        started = time.perf_counter()
        answers.append(_answers(ask, version, [text]))
        seconds.append(time.perf_counter() - started)
        late += seconds[-1] * 1000 > recipe.serving.latency_budget_ms
        if late > REQUESTS / 50:
            break  # the 99th percentile can only be above the budget
    return ([label for labels, _ in answers for label in labels], np.concatenate([s for _, s in answers])), seconds


def _answers(ask: replica.Caller, version: int, texts: Sequence[str]) -> Answers:
    labels, scores, answered = ask(texts)
    if answered != version:
        raise NotServed(f"answers wrongly: version {answered} answered instead")
    return labels, scores


def _within_parity(recipe: Recipe, golden: Golden, labels: list[str], served: npt.NDArray[np.float32]) -> float:
    """The largest difference from the offline probabilities. Raises NotServed."""
    import numpy as np

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
    return difference


def _independent(recipe: Recipe, alone: npt.NDArray[np.float32], batched: npt.NDArray[np.float32]) -> float:
    """The largest difference between the first answers and those of the same texts alone. Raises NotServed."""
    effect = float(abs(alone - batched[: len(alone)]).max())
    if effect > recipe.serving.parity:
        raise NotServed(
            f"answers wrongly: a probability differs by {effect:.4f} with the texts that share its batch; "
            f"serving.parity allows {recipe.serving.parity:g}"
        )
    return effect


def _loses_nothing(recipe: Recipe, golden: Golden, served: npt.NDArray[np.float32]) -> None:
    """Served answers must not surely lose more of the gate's metric than a challenger may."""
    import numpy as np

    gates = recipe.gates
    lost = intervals.difference(
        np.asarray(golden.labels),
        served.astype(np.float64),
        golden.probabilities.astype(np.float64),
        metric=gates.metric,
        confidence=gates.confidence,
    )
    if lost.high < -gates.margin:
        raise NotServed(
            f"answers wrongly: it loses {-lost.point:.4f} of {gates.metric} ({-lost.high:.4f} to {-lost.low:.4f}) on "
            f"{len(golden.labels)} holdout rows; gates.margin allows {gates.margin:g}"
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
