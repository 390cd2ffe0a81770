"""How good models are, and how sure that is: metrics, bootstrap intervals, McNemar, calibration; all on arrays.

The interval of a difference is a paired percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13; for classifiers, Berg-Kirkpatrick, Burkett and Klein, EMNLP 2012). Rows are resampled together with
both models' answers. All metrics here follow from how many rows have which (label, challenger's answer, champion's
answer), so a resample of the rows is a draw of those counts from a multinomial distribution: exact, fast at any
number of rows, and, since only combinations that occur are drawn, small at any number of labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
SEED = 20_250_101
BINS = 15
"""Equal-width bins of confidence, of the calibration error."""


class Interval(BaseModel):
    """A value and its bootstrap interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    point: float
    low: float
    high: float


def _cells(labels: Ints, first: Ints, second: Ints, size: int) -> tuple[Ints, Floats]:
    """The combinations (label, first answer, second answer) that occur, shape (3, cells), and how many rows have each.

    Sorted, so that the order of rows has no influence on what is drawn.
    """
    import numpy as np

    found, counts = np.unique((labels * size + first) * size + second, return_counts=True)
    return np.stack(np.unravel_index(found, (size, size, size))), counts.astype(float)


def _tallies(cells: Ints, counts: Floats, answer: int, size: int) -> tuple[Floats, Floats, Floats]:
    """Of each label: rows answered rightly, rows answered with it, rows that have it; shape (..., size).

    Args:
        counts: rows in each cell, shape (..., cells).
        answer: whose answers, as an index into `cells`.
    """
    import numpy as np

    labels, answers = np.eye(size)[cells[0]], np.eye(size)[cells[answer]]
    return counts @ (labels * answers), counts @ answers, counts @ labels


def _accuracy(hits: Floats, answers: Floats, labels: Floats) -> Floats:
    import numpy as np

    return np.asarray(hits.sum(axis=-1) / labels.sum(axis=-1))


def _f1_macro(hits: Floats, answers: Floats, labels: Floats) -> Floats:
    """As sklearn's f1_score(average='macro', zero_division=0)."""
    import numpy as np

    total = answers + labels
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0).mean(axis=-1))


METRICS: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {"accuracy": _accuracy, "f1_macro": _f1_macro}


def _interval(counts: Floats, value: Callable[[Floats], Floats], confidence: float) -> Interval:
    """Bootstrap interval of a value of counts; `value` takes shape (..., cells). Draws in blocks of bounded memory."""
    import numpy as np

    chance, rows = np.random.default_rng(SEED), int(counts.sum())
    block = min(RESAMPLES, max(1, 4_000_000 // len(counts)))
    values = []
    for start in range(0, RESAMPLES, block):
        drawn = chance.multinomial(rows, counts / rows, size=min(block, RESAMPLES - start))
        values.append(value(drawn.astype(float)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return Interval(point=round(float(value(counts)), 6), low=round(float(low), 6), high=round(float(high), 6))


def scores(labels: Ints, probabilities: Floats, *, confidence: float) -> dict[str, Interval]:
    """Each metric of one model with its bootstrap interval."""
    predicted, size = probabilities.argmax(axis=1), probabilities.shape[1]
    cells, counts = _cells(labels, predicted, predicted, size)

    def of(metric: str) -> Interval:
        return _interval(counts, lambda drawn: METRICS[metric](*_tallies(cells, drawn, 1, size)), confidence)

    return {metric: of(metric) for metric in METRICS}


def score(labels: Ints, probabilities: Floats, *, metric: str) -> float:
    """One metric of one model."""
    predicted, size = probabilities.argmax(axis=1), probabilities.shape[1]
    return round(float(METRICS[metric](*_tallies(*_cells(labels, predicted, predicted, size), 1, size))), 6)


def difference(labels: Ints, challenger: Floats, champion: Floats, *, metric: str, confidence: float) -> Interval:
    """The metric of the challenger minus the champion's, on the same rows, with its paired bootstrap interval."""
    size, measure = challenger.shape[1], METRICS[metric]
    cells, counts = _cells(labels, challenger.argmax(axis=1), champion.argmax(axis=1), size)
    return _interval(
        counts,
        lambda drawn: measure(*_tallies(cells, drawn, 1, size)) - measure(*_tallies(cells, drawn, 2, size)),
        confidence,
    )


def mcnemar(labels: Ints, challenger: Floats, champion: Floats) -> float:
    """Two-sided p-value of the exact McNemar test on the rows that just one of the two gets right."""
    from scipy.stats import binomtest

    ours, theirs = challenger.argmax(axis=1) == labels, champion.argmax(axis=1) == labels
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return round(float(binomtest(gained, gained + lost).pvalue), 6) if gained + lost else 1.0


def calibration_error(labels: Ints, probabilities: Floats) -> float:
    """Expected calibration error of the most probable label (Guo et al., ICML 2017); not a number counts as 0."""
    import numpy as np

    confidence, correct = np.nan_to_num(probabilities).max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=BINS)
    return round(float(np.abs(gaps).sum() / len(labels)), 6)
