"""The statistics of promotion: from labels and probabilities to a verdict. Pure functions on arrays.

The interval of a difference is a paired percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13; for classifiers, Berg-Kirkpatrick, Burkett and Klein, EMNLP 2012). Rows are resampled together with
both models' answers. All metrics here follow from how many rows have which (label, challenger's answer, champion's
answer), so a resample of the rows is a draw of those counts from a multinomial distribution: exact, and fast at any
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from regraft.recipe import Gates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
SEED = 20_250_101
BINS = 15
"""Equal-width bins of confidence, of the calibration error."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Data):
    point: float
    low: float
    high: float


class Difference(Interval):
    """Challenger minus champion, in the recipe's metric."""

    confidence: float
    mcnemar_p: float
    """Exact McNemar test of equal error rates: a cross-check that shares nothing with the bootstrap."""


class Contestant(_Data):
    """One of the two models, scored on the clean holdout rows."""

    model: str
    version: int | None = None
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    calibration_error: float


class Gate(_Data):
    name: str
    passed: bool
    undecided: bool = False
    """Not passed for want of evidence, rather than failed."""
    sentence: str


class Slice(_Data):
    name: str
    rows: int
    judged: bool
    """Whether the slice has rows enough to have a gate."""
    challenger: float
    champion: float | None
    difference: Interval | None


class Rows(_Data):
    holdout: int
    clean: int
    contaminated: int
    """Left out since one of the models was trained on them."""


class Verdict(_Data):
    """What evaluate puts out as verdict.json."""

    verdict: Literal["promote", "hold", "reject"]
    sentence: str
    metric: str
    rows: Rows
    challenger: Contestant
    champion: Contestant | None
    difference: Difference | None
    gates: tuple[Gate, ...]
    slices: tuple[Slice, ...]


class Answers(BaseModel):
    """What two models say of the same rows.

    Shapes: labels (rows,), challenger and champion (rows, labels) probabilities; slices: name to (rows,) booleans.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    labels: Any
    challenger: Any
    champion: Any = None
    slices: dict[str, Any] = {}


def _cells(labels: Ints, first: Ints, second: Ints, size: int) -> Ints:
    """How many rows have each (label, first answer, second answer): shape (size, size, size). At least one row."""
    import numpy as np

    flat = (labels * size + first) * size + second
    return np.bincount(flat, minlength=size**3).reshape(size, size, size)


def _accuracy(confusion: Floats) -> Floats:
    """Of confusion counts, shape (..., label, answer)."""
    import numpy as np

    return np.asarray(np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1)))


def _f1_macro(confusion: Floats) -> Floats:
    """As sklearn's f1_score(average='macro', zero_division=0), of confusion counts of shape (..., label, answer)."""
    import numpy as np

    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(hits, dtype=float), where=total > 0)
    return np.asarray(f1.mean(axis=-1))


METRICS: dict[str, Callable[[Floats], Floats]] = {"accuracy": _accuracy, "f1_macro": _f1_macro}


def _draws(cells: Ints) -> Floats:
    """Counts of RESAMPLES bootstrap samples, shape (RESAMPLES, *cells.shape)."""
    import numpy as np

    rows = int(cells.sum())
    drawn = np.random.default_rng(SEED).multinomial(rows, cells.ravel() / rows, size=RESAMPLES)
    return drawn.reshape(RESAMPLES, *cells.shape).astype(float)


def _percentiles(values: Floats, point: float, confidence: float) -> Interval:
    import numpy as np

    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(point=round(point, 6), low=round(float(low), 6), high=round(float(high), 6))


def scores(labels: Ints, probabilities: Floats, *, confidence: float) -> dict[str, Interval]:
    """Each metric of one model with its bootstrap interval."""
    predicted = probabilities.argmax(axis=1)
    cells = _cells(labels, predicted, predicted, probabilities.shape[1])
    drawn = _draws(cells).sum(axis=-1)
    return {
        name: _percentiles(metric(drawn), float(metric(cells.sum(axis=-1).astype(float))), confidence)
        for name, metric in METRICS.items()
    }


def difference(labels: Ints, challenger: Floats, champion: Floats, *, metric: str, confidence: float) -> Interval:
    """The metric of the challenger minus the champion's, on the same rows, with its paired bootstrap interval."""
    cells = _cells(labels, challenger.argmax(axis=1), champion.argmax(axis=1), challenger.shape[1])
    drawn = _draws(cells)
    measure = METRICS[metric]
    point = float(measure(cells.sum(axis=2).astype(float)) - measure(cells.sum(axis=1).astype(float)))
    return _percentiles(measure(drawn.sum(axis=3)) - measure(drawn.sum(axis=2)), point, confidence)


def mcnemar(labels: Ints, challenger: Floats, champion: Floats) -> float:
    """Two-sided p-value of the exact McNemar test on the rows that just one of the two gets right."""
    from scipy.stats import binomtest

    ours, theirs = challenger.argmax(axis=1) == labels, champion.argmax(axis=1) == labels
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return round(float(binomtest(gained, gained + lost).pvalue), 6) if gained + lost else 1.0


def calibration_error(labels: Ints, probabilities: Floats) -> float:
    """Expected calibration error of the most probable label (Guo et al., ICML 2017)."""
    import numpy as np

    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=BINS)
    return round(float(np.abs(gaps).sum() / len(labels)), 6)


def judge(
    answers: Answers,
    gates: Gates,
    *,
    rows: Rows,
    challenger: str,
    champion: str | None = None,
    version: int | None = None,
    anchor: Answers | None = None,
    latency_ms: float | None = None,
) -> Verdict:
    """The verdict on a challenger.

    `reject` when a gate failed; `hold` when none failed but the evidence does not suffice; else `promote`.

    Args:
        answers: on the clean rows of the holdout.
        challenger, champion: identities of the models; None when there is no champion yet.
        version: the champion's version in the registry.
        anchor: answers on the fixed anchor set, where the recipe has one.
        latency_ms: the challenger's measured median latency; None where it was not measured.
    """
    confidence = gates.confidence
    ours = _contestant(challenger, None, answers.labels, answers.challenger, confidence)
    theirs, delta = None, None
    if champion is not None:
        theirs = _contestant(champion, version, answers.labels, answers.champion, confidence)
        found = difference(
            answers.labels, answers.challenger, answers.champion, metric=gates.metric, confidence=confidence
        )
        p = mcnemar(answers.labels, answers.challenger, answers.champion)
        delta = Difference(**found.model_dump(), confidence=confidence, mcnemar_p=p)
    slices = _slices(answers, gates)
    judged = [
        _rows_gate(rows, gates),
        *_floor_gates(ours, gates),
        *([_champion_gate(delta, gates, version)] if delta else []),
        *_slice_gates(slices, gates),
        *_calibration_gate(ours, gates),
        *_forgetting_gate(anchor, gates),
        *_latency_gate(latency_ms, gates),
    ]
    verdict: Literal["promote", "hold", "reject"] = "promote"
    missed = [gate for gate in judged if not gate.passed]
    if missed:
        verdict = "hold" if all(gate.undecided for gate in missed) else "reject"
    return Verdict(
        verdict=verdict,
        sentence=_sentence(verdict, judged, ours, theirs, delta, gates),
        metric=gates.metric,
        rows=rows,
        challenger=ours,
        champion=theirs,
        difference=delta,
        gates=tuple(judged),
        slices=slices,
    )


def _contestant(model: str, version: int | None, labels: Ints, answers: Floats, confidence: float) -> Contestant:
    intervals = scores(labels, answers, confidence=confidence)
    return Contestant(
        model=model,
        version=version,
        metrics={name: interval.point for name, interval in intervals.items()},
        intervals=intervals,
        calibration_error=calibration_error(labels, answers),
    )


def _gate(name: str, passed: bool, sentence: str, *, undecided: bool = False) -> Gate:
    return Gate(name=name, passed=passed, undecided=undecided and not passed, sentence=sentence)


def _rows_gate(rows: Rows, gates: Gates) -> Gate:
    sentence = f"{rows.clean:,} clean holdout rows, {gates.min_rows:,} needed"
    if rows.contaminated:
        sentence += f" ({rows.contaminated:,} left out: a model was trained on them)"
    return _gate("rows", rows.clean >= gates.min_rows, sentence, undecided=True)


def _floor_gates(ours: Contestant, gates: Gates) -> list[Gate]:
    return [
        _gate(
            f"floor {name}",
            ours.metrics[name] >= floor,
            f"{name} {ours.metrics[name]:.3f}, floor {floor:g}",
        )
        for name, floor in sorted(gates.floors.items())
    ]


def _champion_gate(delta: Difference, gates: Gates, version: int | None) -> Gate:
    """Provably no worse: not below on these rows, and the interval stays above the margin.

    The first condition keeps many small losses, each within the margin, from adding up over the years.
    """
    bounds = f"{delta.point:+.3f} ({gates.confidence:.0%} interval {delta.low:+.3f} to {delta.high:+.3f})"
    sentence = f"{gates.metric} against version {version}: {bounds}, margin {gates.margin:g}"
    if delta.high < 0:
        return _gate("champion", False, sentence)
    return _gate("champion", delta.point >= 0 and delta.low >= -gates.margin, sentence, undecided=True)


def _slices(answers: Answers, gates: Gates) -> tuple[Slice, ...]:
    """Scores and differences of each slice. The intervals share the error rate among the slices (Bonferroni)."""
    import numpy as np

    judged = [name for name, rows in answers.slices.items() if rows.sum() >= gates.slices.min_rows]
    confidence = 1 - (1 - gates.confidence) / max(len(judged), 1)
    found = []
    for name, selected in sorted(answers.slices.items()):
        count = int(np.asarray(selected).sum())
        if not count:
            continue
        labels, ours = answers.labels[selected], answers.challenger[selected]
        delta, theirs = None, None
        if answers.champion is not None:
            champion = answers.champion[selected]
            theirs = scores(labels, champion, confidence=confidence)[gates.metric].point
            delta = difference(labels, ours, champion, metric=gates.metric, confidence=confidence)
        point = scores(labels, ours, confidence=confidence)[gates.metric].point
        found.append(
            Slice(name=name, rows=count, judged=name in judged, challenger=point, champion=theirs, difference=delta)
        )
    return tuple(found)


def _slice_gates(slices: Sequence[Slice], gates: Gates) -> list[Gate]:
    """A slice fails when it is worse by more than its margin, and surely worse; small slices prove nothing."""
    return [
        _gate(
            f"slice {part.name}",
            part.difference.point >= -gates.slices.margin or part.difference.high >= 0,
            f"{gates.metric} {part.difference.point:+.3f} on {part.rows:,} rows "
            f"({part.difference.low:+.3f} to {part.difference.high:+.3f}), margin {gates.slices.margin:g}",
        )
        for part in slices
        if part.judged and part.difference is not None
    ]


def _calibration_gate(ours: Contestant, gates: Gates) -> list[Gate]:
    ceiling = gates.max_calibration_error
    if ceiling is None:
        return []
    error = ours.calibration_error
    return [_gate("calibration", error <= ceiling, f"calibration error {error:.3f}, ceiling {ceiling:g}")]


def _forgetting_gate(anchor: Answers | None, gates: Gates) -> list[Gate]:
    if anchor is None or gates.forgetting is None or anchor.champion is None:
        return []
    delta = difference(
        anchor.labels, anchor.challenger, anchor.champion, metric=gates.metric, confidence=gates.confidence
    )
    allowed = gates.forgetting.max_drop
    sentence = f"{gates.metric} {delta.point:+.3f} on the anchor set, {allowed:g} may be lost"
    return [_gate("forgetting", delta.point >= -allowed, sentence)]


def _latency_gate(latency_ms: float | None, gates: Gates) -> list[Gate]:
    """The sentence has no measured number, since verdict.json must not differ between machines; the manifest has it."""
    if latency_ms is None or gates.max_latency_ms is None:
        return []
    passed = latency_ms <= gates.max_latency_ms
    return [_gate("latency", passed, f"median latency {'under' if passed else 'over'} {gates.max_latency_ms:g} ms")]


def _sentence(
    verdict: str,
    judged: Sequence[Gate],
    ours: Contestant,
    theirs: Contestant | None,
    delta: Difference | None,
    gates: Gates,
) -> str:
    metric = gates.metric
    if theirs and delta:
        facts = (
            f"{metric} {ours.metrics[metric]:.3f} against {theirs.metrics[metric]:.3f} of version "
            f"{theirs.version}, a difference of {delta.point:+.3f} "
            f"({delta.confidence:.0%} interval {delta.low:+.3f} to {delta.high:+.3f})"
        )
    else:
        facts = f"{metric} {ours.metrics[metric]:.3f}, and there is no champion yet"
    missed = [gate for gate in judged if not gate.passed and (gate.undecided or verdict == "reject")]
    reasons = "; ".join(f"{gate.name}: {gate.sentence}" for gate in missed)
    if verdict == "promote":
        return f"Promote: {facts}; all {len(judged)} gates passed."
    if verdict == "reject":
        return f"Reject: {facts}. Failed: {reasons}. The champion stays; look at the report's mistakes and slices."
    return f"Hold: {facts}. Not proven: {reasons}. The champion stays; more data may decide it."
