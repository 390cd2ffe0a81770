"""Metrics as sums over rows, and how sure they are: all statistics that there are.

What a row and a model's answer to it add to a metric is their tally: a few numbers, such as hits and counts. A metric
is a value of the sums of tallies, as in sacrebleu. So one bootstrap serves every metric of every task: an interval is a
percentile bootstrap, that of a difference a paired one (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13; for classifiers, Berg-Kirkpatrick, Burkett and Klein, EMNLP 2012): rows are resampled together with both
models' tallies. Rows of equal tallies make a cell, and a resample of the rows is a draw of the cells' counts from a
multinomial distribution: exact, fast at any number of rows, and small however many tallies there could be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

Metric = Callable[["Floats"], "Floats"]
"""A value of sums: takes shape (width, ...), gives shape (...)."""

RESAMPLES = 10_000
SEED = 20_250_101
FEW_CELLS, RARE = 128, 8
"""Up to so many cells each has its own binomial number; beyond, those of at most so many rows are drawn together."""


class Interval(BaseModel):
    """A value and its bootstrap interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """What rows and a model's answers to them add.

    Attributes:
        keys: shape (rows, n): rows with equal keys add the same.
        adds: what rows of given keys add, shape (rows, width), dense or sparse.
    """

    keys: Ints
    adds: Callable[[Ints], Any]

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, rows: Any) -> Tally:
        """That of some rows: a mask, or their positions."""
        return replace(self, keys=self.keys[rows])


def _cells(keys: Ints) -> tuple[Ints, Ints]:
    """The keys that occur, shape (cells, n), and how many rows have each. Sorted: the order of rows does not matter."""
    import numpy as np

    return np.unique(keys, axis=0, return_counts=True)


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
    intervals = {}
    for name, point in points.items():
        low, high = np.quantile(np.concatenate([part[name] for part in blocks]), [tail, 1 - tail])
        intervals[name] = Interval(point=round(point, 6), low=round(float(low), 6), high=round(float(high), 6))
    return intervals


def scores(tally: Tally, metrics: Mapping[str, Metric], *, confidence: float) -> dict[str, Interval]:
    """Each metric of one model with its bootstrap interval."""
    keys, counts = _cells(tally.keys)
    adds = tally.adds(keys).T

    def values(drawn: Floats) -> dict[str, Floats]:
        sums = adds @ drawn
        return {name: metric(sums) for name, metric in metrics.items()}

    return _intervals(counts, values, confidence)


def score(tally: Tally, metric: Metric) -> float:
    """One metric of one model."""
    keys, counts = _cells(tally.keys)
    return round(float(metric(tally.adds(keys).T @ counts.astype(float))), 6)


def difference(ours: Tally, theirs: Tally, metric: Metric, *, confidence: float) -> Interval:
    """A metric of one model minus another's, on the same rows, with its paired bootstrap interval."""
    import numpy as np

    width = ours.keys.shape[1]
    keys, counts = _cells(np.hstack([ours.keys, theirs.keys]))
    one, other = ours.adds(keys[:, :width]).T, theirs.adds(keys[:, width:]).T

    def values(drawn: Floats) -> dict[str, Floats]:
        return {"": metric(one @ drawn) - metric(other @ drawn)}

    return _intervals(counts, values, confidence)[""]


def kappa(said: Ints) -> float:
    """Cohen's kappa (1960) of two who compared the same pairs of answers: 1 where they agree, 0 where as by chance.

    Which answer of a pair came first is nobody's word: each pair counts both ways round.

    Args:
        said: pairs by what the one said and the other, each first, tie or second better; shape (3, 3).
    """
    import numpy as np

    both = said + said[::-1, ::-1]
    shares = both / max(both.sum(), 1)
    chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return round((float(np.trace(shares)) - chance) / (1 - chance), 6) if chance < 1 else 0.0


def win_rate(judged: Ints, sample: Ints, *, confidence: float) -> Interval:
    """How often an answer wins, a tie as half, were people asked and not a judge; with its bootstrap interval.

    Rogan and Gladen (1978), for three classes: the shares that a judge finds are the true ones times what it makes of
    each. One that is asked in both orders has no side, so of that matrix only one number matters: where people prefer
    one answer, how much more often the judge does too than it prefers the other. Wins less losses are that number
    times the true ones, whatever it makes of ties. Holdout and sample are resampled apart, each for its own error.

    Args:
        judged: rows that the judge says are won, tied and lost; shape (3,).
        sample: pairs by what people said and what the judge did, each first, tie or second better; shape (3, 3).
    """
    import numpy as np

    def rate(rows: Any, pairs: Any) -> Any:
        agreed, opposed = pairs[0] + pairs[8], pairs[2] + pairs[6]
        decided = np.maximum(agreed + opposed + pairs[1] + pairs[7], 1)
        trust = (agreed - opposed) / decided
        found = (rows[0] - rows[2]) / rows.sum(axis=0)
        return 0.5 + np.clip(found / np.where(trust == 0, 1e-9, trust), -1, 1) / 2

    chance, pairs, tail = np.random.default_rng(SEED), sample.ravel(), (1 - confidence) / 2
    drawn = rate(_drawn(chance, judged, RESAMPLES), _drawn(chance, pairs, RESAMPLES))
    point, (low, high) = float(rate(judged, pairs)), np.quantile(drawn, [tail, 1 - tail])
    return Interval(point=round(point, 6), low=round(float(low), 6), high=round(float(high), 6))


def distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Jensen-Shannon distance of two counts, base 2: 0 for equal shares, 1 where nothing is shared."""
    from scipy.spatial.distance import jensenshannon

    keys = sorted({*one, *other})
    if not sum(one.values()) or not sum(other.values()):
        return 1.0
    value = float(jensenshannon([one.get(k, 0) for k in keys], [other.get(k, 0) for k in keys], base=2))
    return round(value, 6)


def rows_to_exclude(interval: Interval, value: float, rows: int) -> int | None:
    """About how many rows an interval of the same point needs to leave a value out, rounded up to two digits.

    An interval's width falls with the root of the rows. None where the point is the value, or it is left out already.
    """
    distance = abs(interval.point - value)
    reach = interval.point - interval.low if value < interval.point else interval.high - interval.point
    if not distance or reach <= distance:
        return None
    needed = math.ceil(rows * (reach / distance) ** 2)
    unit = int(10 ** max(len(str(needed)) - 2, 0))
    return -(-needed // unit) * unit
