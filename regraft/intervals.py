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
FEW_CELLS, RARE = 128, 8
"""Up to so many cells each has its own binomial number; beyond, those of at most so many rows are drawn together."""
BINS = 15
"""Equal-width bins of confidence, of the calibration error."""


class Interval(BaseModel):
    """A value and its bootstrap interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    point: float
    low: float
    high: float


def _cells(labels: Ints, first: Ints, second: Ints, size: int) -> tuple[Ints, Ints]:
    """The combinations (label, first answer, second answer) that occur, shape (3, cells), and how many rows have each.

    Sorted, so that the order of rows has no influence on what is drawn.
    """
    import numpy as np

    found, counts = np.unique((labels * size + first) * size + second, return_counts=True)
    return np.stack(np.unravel_index(found, (size, size, size))), counts


def _summed(counts: Floats, groups: Ints, size: int) -> Floats:
    """Sums of the rows of `counts`, shape (cells, ...), that share a group; shape (size, ...)."""
    import numpy as np

    out = np.zeros((size, *counts.shape[1:]))
    if len(groups):
        order = np.argsort(groups, kind="stable")
        present, starts = np.unique(groups[order], return_index=True)
        out[present] = np.add.reduceat(counts[order], starts, axis=0)
    return out


def _tallies(cells: Ints, counts: Floats, answer: int, size: int) -> tuple[Floats, Floats, Floats]:
    """Of each label: rows answered rightly, rows answered with it, rows that have it; shape (size, ...).

    Args:
        counts: rows in each cell, shape (cells, ...).
        answer: whose answers, as an index into `cells`.
    """
    right = cells[0] == cells[answer]
    hits = _summed(counts[right], cells[0][right], size)
    return hits, _summed(counts, cells[answer], size), _summed(counts, cells[0], size)


def _accuracy(hits: Floats, answers: Floats, labels: Floats) -> Floats:
    import numpy as np

    return np.asarray(hits.sum(axis=0) / labels.sum(axis=0))


def _f1_macro(hits: Floats, answers: Floats, labels: Floats) -> Floats:
    """As sklearn's f1_score(average='macro', zero_division=0)."""
    import numpy as np

    total = answers + labels
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0).mean(axis=0))


METRICS: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {"accuracy": _accuracy, "f1_macro": _f1_macro}


def _drawn(chance: np.random.Generator, counts: Ints, size: int) -> Floats:
    """How many rows of each cell are in each of `size` resamples, shape (cells, size): multinomial.

    With many cells most hold a row or two, and a binomial number for each is dear. Those cells are drawn as one,
    and its rows then one by one with equal chances: the same distribution, several times as fast.
    """
    import numpy as np

    rows, rare = int(counts.sum()), counts <= RARE
    pool = np.repeat(np.flatnonzero(rare), counts[rare])
    if len(counts) <= FEW_CELLS or not len(pool):
        return chance.multinomial(rows, counts / rows, size=size).T.astype(float)
    common = chance.multinomial(rows, np.append(counts[~rare], len(pool)) / rows, size=size)
    resample = np.repeat(np.arange(size), common[:, -1])
    picked = pool[chance.integers(len(pool), size=len(resample))]
    out = np.bincount(picked * size + resample, minlength=len(counts) * size).reshape(len(counts), size).astype(float)
    out[~rare] = common[:, :-1].T
    return out


def _intervals(counts: Ints, values: Callable[[Floats], dict[str, Floats]], confidence: float) -> dict[str, Interval]:
    """Bootstrap intervals of values of counts, all of the same resamples; `values` takes shape (cells, ...).

    Draws in blocks of bounded memory.
    """
    import numpy as np

    points = {name: float(value) for name, value in values(counts.astype(float)).items()}
    if len(counts) == 1:  # every resample is the same
        return {name: Interval(**dict.fromkeys(("point", "low", "high"), round(v, 6))) for name, v in points.items()}
    chance = np.random.default_rng(SEED)
    block = min(RESAMPLES, max(1, (4_000_000 if len(counts) <= FEW_CELLS else 100_000) // len(counts)))
    blocks = [values(_drawn(chance, counts, min(block, RESAMPLES - at))) for at in range(0, RESAMPLES, block)]
    tail = (1 - confidence) / 2
    found = {}
    for name, point in points.items():
        low, high = np.quantile(np.concatenate([part[name] for part in blocks]), [tail, 1 - tail])
        found[name] = Interval(point=round(point, 6), low=round(float(low), 6), high=round(float(high), 6))
    return found


def scores(labels: Ints, probabilities: Floats, *, confidence: float) -> dict[str, Interval]:
    """Each metric of one model with its bootstrap interval."""
    predicted, size = probabilities.argmax(axis=1), probabilities.shape[1]
    cells, counts = _cells(labels, predicted, predicted, size)

    def values(drawn: Floats) -> dict[str, Floats]:
        tallies = _tallies(cells, drawn, 1, size)
        return {name: metric(*tallies) for name, metric in METRICS.items()}

    return _intervals(counts, values, confidence)


def score(labels: Ints, probabilities: Floats, *, metric: str) -> float:
    """One metric of one model."""
    predicted, size = probabilities.argmax(axis=1), probabilities.shape[1]
    cells, counts = _cells(labels, predicted, predicted, size)
    return round(float(METRICS[metric](*_tallies(cells, counts.astype(float), 1, size))), 6)


def difference(labels: Ints, challenger: Floats, champion: Floats, *, metric: str, confidence: float) -> Interval:
    """The metric of the challenger minus the champion's, on the same rows, with its paired bootstrap interval."""
    size, measure = challenger.shape[1], METRICS[metric]
    cells, counts = _cells(labels, challenger.argmax(axis=1), champion.argmax(axis=1), size)

    def values(drawn: Floats) -> dict[str, Floats]:
        return {metric: measure(*_tallies(cells, drawn, 1, size)) - measure(*_tallies(cells, drawn, 2, size))}

    return _intervals(counts, values, confidence)[metric]


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
