"""The gate: from labels and probabilities to a verdict. Pure functions on arrays; the statistics are in `intervals`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from regraft.intervals import Interval, calibration_error, difference, mcnemar, score, scores
from regraft.parts import Gates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """Empty when no row is clean."""
    intervals: dict[str, Interval]
    calibration_error: float | None


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

    `hold` when there are too few clean rows to say anything; `reject` when a gate failed; `hold` when none failed but
    the evidence does not suffice; else `promote`.

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
    if champion is not None and len(answers.labels):
        pair = answers.labels, answers.challenger, answers.champion
        found = difference(*pair, metric=gates.metric, confidence=confidence)
        delta = Difference(**found.model_dump(), confidence=confidence, mcnemar_p=mcnemar(*pair))
    slices = _slices(answers, gates)
    enough = _rows_gate(rows, gates)
    judged = [
        enough,
        *_answers_gate(answers.challenger),
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
        verdict = "hold" if not enough.passed or all(gate.undecided for gate in missed) else "reject"
    return Verdict(
        verdict=verdict,
        sentence=_sentence(verdict, judged, ours, theirs, delta, rows, gates),
        metric=gates.metric,
        rows=rows,
        challenger=ours,
        champion=theirs,
        difference=delta,
        gates=tuple(judged),
        slices=slices,
    )


def _contestant(model: str, version: int | None, labels: Ints, answers: Floats, confidence: float) -> Contestant:
    intervals = scores(labels, answers, confidence=confidence) if len(labels) else {}
    return Contestant(
        model=model,
        version=version,
        metrics={name: interval.point for name, interval in intervals.items()},
        intervals=intervals,
        calibration_error=calibration_error(labels, answers) if len(labels) else None,
    )


def _gate(name: str, passed: bool, sentence: str, *, undecided: bool = False) -> Gate:
    return Gate(name=name, passed=passed, undecided=undecided and not passed, sentence=sentence)


def _rows_gate(rows: Rows, gates: Gates) -> Gate:
    sentence = f"{rows.clean:,} clean holdout rows, {gates.min_rows:,} needed"
    if rows.contaminated:
        sentence += f" ({rows.contaminated:,} left out: a model was trained on them)"
    return _gate("rows", rows.clean >= gates.min_rows, sentence, undecided=True)


def _answers_gate(probabilities: Floats) -> list[Gate]:
    """Only where it fails: a training that diverged answers with NaN, and argmax of NaN looks like an answer."""
    import numpy as np

    broken = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if not broken:
        return []
    return [_gate("answers", False, f"{broken:,} of {len(probabilities):,} answers are not numbers: training diverged")]


def _floor_gates(ours: Contestant, gates: Gates) -> list[Gate]:
    return [
        _gate(
            f"floor {name}",
            ours.metrics[name] >= floor,
            f"{name} {ours.metrics[name]:.3f}, floor {floor:g}",
        )
        for name, floor in sorted(gates.floors.items())
        if name in ours.metrics
    ]


def _champion_gate(delta: Difference, gates: Gates, version: int | None) -> Gate:
    """Provably no worse: not below on these rows, and the interval stays above the margin.

    The first condition keeps many small losses, each within the margin, from adding up over the years.
    """
    found = f"{gates.metric} {delta.point:+.3f} against version {version} ({_bounds(delta, gates.confidence)})"
    if delta.high < 0:
        return _gate("champion", False, f"{found}: surely worse")
    if delta.point < 0:
        return _gate("champion", False, f"{found}: worse on these rows, perhaps by chance", undecided=True)
    if delta.low < -gates.margin:
        sentence = f"{found}: it may be worse by {-delta.low:.3f}, and the margin is {gates.margin:g}"
        return _gate("champion", False, sentence, undecided=True)
    return _gate("champion", True, f"{found}, margin {gates.margin:g}")


def _bounds(interval: Interval, confidence: float) -> str:
    return f"{confidence * 100:g} % interval {interval.low:+.3f} to {interval.high:+.3f}"


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
            theirs = score(labels, champion, metric=gates.metric)
            delta = difference(labels, ours, champion, metric=gates.metric, confidence=confidence)
        point = score(labels, ours, metric=gates.metric)
        found.append(
            Slice(name=name, rows=count, judged=name in judged, challenger=point, champion=theirs, difference=delta)
        )
    return tuple(found)


def _slice_gates(slices: Sequence[Slice], gates: Gates) -> list[Gate]:
    """A slice that lost more than its margin: failed when it is surely worse, not decided when that may be chance.

    That its interval stays above the margin, as on all rows, is not asked: with 100 rows most good models would wait.
    """
    return [
        _gate(
            f"slice {part.name}",
            part.difference.point >= -gates.slices.margin,
            f"{gates.metric} {part.difference.point:+.3f} on {part.rows:,} rows "
            f"({part.difference.low:+.3f} to {part.difference.high:+.3f}), margin {gates.slices.margin:g}",
            undecided=part.difference.high >= 0,
        )
        for part in slices
        if part.judged and part.difference is not None
    ]


def _calibration_gate(ours: Contestant, gates: Gates) -> list[Gate]:
    ceiling = gates.max_calibration_error
    error = ours.calibration_error
    if ceiling is None or error is None:
        return []
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
    rows: Rows,
    gates: Gates,
) -> str:
    metric = gates.metric
    if not rows.clean:
        facts = f"none of the {rows.holdout:,} holdout rows is clean, so nothing could be compared"
    elif theirs and delta:
        facts = (
            f"{metric} {ours.metrics[metric]:.3f} against {theirs.metrics[metric]:.3f} of version {theirs.version} "
            f"on {rows.clean:,} clean rows, a difference of {delta.point:+.3f} ({_bounds(delta, delta.confidence)})"
        )
    else:
        facts = f"{metric} {ours.metrics[metric]:.3f} on {rows.clean:,} rows, and there is no champion yet"
    if verdict == "promote":
        sure = ""
        if delta:
            sure = (
                ", surely better"
                if delta.low > 0
                else f", surely not below by more than the margin of {gates.margin:g}"
            )
        return f"Promote: {facts}{sure}; all {len(judged)} gates passed."
    missed = [gate for gate in judged if not gate.passed and gate.undecided == (verdict == "hold")]
    reasons = "; ".join(f"{gate.name}: {gate.sentence}" for gate in missed)
    stays = "The champion stays" if theirs else "Nothing is promoted"
    if verdict == "reject":
        return f"Reject: {facts}. Failed: {reasons}. {stays}; look at the report's mistakes and slices."
    return f"Hold: {facts}. Not proven: {reasons}. {stays}; more fresh data may decide it."
