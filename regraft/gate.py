"""The gate: from what two models' answers add up to, to a verdict. Pure functions; the statistics are in `tally`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from regraft.errors import BadInput
from regraft.parts import Gates
from regraft.tally import Interval, Metric, Tally, difference, rows_to_exclude, score, scores


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class Difference(Interval):
    """Challenger minus champion, in the recipe's metric, and what the task adds."""

    model_config = ConfigDict(frozen=True, extra="allow")

    confidence: float


class Contestant(_Data):
    """One of the two models, scored on the clean holdout rows, and what the task adds."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    digest: str | None = None
    """Of the finetune's result, as it was judged; verdicts made before have none."""
    version: int | None = None
    metrics: dict[str, float]
    """Empty when no row is clean."""
    intervals: dict[str, Interval]


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


class RowCounts(_Data):
    holdout: int
    clean: int
    contaminated: int
    """Left out since one of the models was trained on them."""


class Verdict(_Data):
    """What evaluate puts out as verdict.json."""

    verdict: Literal["promote", "hold", "reject"]
    sentence: str
    metric: str
    rows: RowCounts
    challenger: Contestant
    champion: Contestant | None
    difference: Difference | None
    gates: tuple[Gate, ...]
    slices: tuple[Slice, ...]

    @classmethod
    def read(cls, content: bytes, *, where: str) -> Self:
        """What a verdict.json says, whatever regraft wrote it. Raises BadInput where it is damaged."""
        try:
            return cls.model_validate_json(content)
        except ValueError as error:
            raise BadInput(
                f"is not a verdict: {error}",
                where=where,
                next="find out who wrote it, or restore it from a backup or from the bucket's version history",
            ) from error

    @property
    def values(self) -> dict[str, Any]:
        """The JSON values that were written, as `regraft.verdicts` takes them."""
        return self.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What two models' answers to the same rows add.

    Attributes:
        base: what the base model adds without what the challenger learned; only where there is no champion.
        slices: the rows of each, as masks.
        broken: answers of the challenger that are none.
    """

    challenger: Tally
    champion: Tally | None = None
    base: Tally | None = None
    slices: Mapping[str, Any] = field(default_factory=dict)
    broken: int = 0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Which model is judged: identity of its finetune, digest of that result, version in the registry."""

    model: str
    digest: str | None = None
    version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Own:
    """What a task adds to a verdict: further facts of each side and of their difference, and gates."""

    challenger: Mapping[str, float | None] = field(default_factory=dict)
    champion: Mapping[str, float | None] = field(default_factory=dict)
    difference: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()


def judge(
    answers: Answers,
    gates: Gates,
    *,
    metrics: Mapping[str, Metric],
    rows: RowCounts,
    challenger: Judged,
    champion: Judged | None = None,
    anchor: Answers | None = None,
    latency_ms: float | None = None,
    own: Own | None = None,
) -> Verdict:
    """The verdict on a challenger.

    `hold` when there are too few clean rows to say anything; `reject` when a gate failed; `hold` when none failed but
    the evidence does not suffice; else `promote`.

    Args:
        answers: on the clean rows of the holdout.
        metrics: those of the task.
        challenger, champion: the models; None when there is no champion yet.
        anchor: answers on the fixed anchor set, where the recipe has one.
        latency_ms: the challenger's measured median latency; None where it was not measured.
        own: what the task adds.
    """
    own = own or Own()
    confidence, metric = gates.confidence, metrics[gates.metric]

    def contestant(model: Judged, tally: Tally, more: Mapping[str, float | None]) -> Contestant:
        intervals = scores(tally, metrics, confidence=confidence) if len(tally) else {}
        points = {name: interval.point for name, interval in intervals.items()}
        return Contestant(**asdict(model), metrics=points, intervals=intervals, **more)

    ours = contestant(challenger, answers.challenger, own.challenger)
    theirs, delta = None, None
    if champion is not None and answers.champion is not None:
        theirs = contestant(champion, answers.champion, own.champion)
        if len(answers.champion):
            interval = difference(answers.challenger, answers.champion, metric, confidence=confidence)
            delta = Difference(**interval.model_dump(), confidence=confidence, **own.difference)
    slices = _slices(answers, metric, gates)
    enough = _rows_gate(rows, gates)
    judged = [
        enough,
        *_answers_gate(answers),
        *_floor_gates(ours, gates),
        *([_champion_gate(delta, gates, rows.clean, theirs.version)] if delta and theirs else []),
        *_base_gate(answers, metric, gates),
        *_slice_gates(slices, gates),
        *own.gates,
        *_forgetting_gate(anchor, metric, gates),
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


def _gate(name: str, passed: bool, sentence: str, *, undecided: bool = False) -> Gate:
    return Gate(name=name, passed=passed, undecided=undecided and not passed, sentence=sentence)


def loses_at_most(most: float, change: Interval, *, name: str, sentence: str) -> Gate:
    """A gate on a change: all of its interval has to lie above a loss of `most`.

    It failed where the change is surely a loss, and on these rows more than that; else it is not decided.
    """
    failed = change.high < 0 and change.point < -most
    return _gate(name, change.low >= -most, sentence, undecided=not failed)


def _rows_gate(rows: RowCounts, gates: Gates) -> Gate:
    sentence = f"{rows.clean:,} clean holdout rows, {gates.min_rows:,} needed"
    if rows.contaminated:
        sentence += f" ({rows.contaminated:,} left out: a model was trained on them)"
    return _gate("rows", rows.clean >= gates.min_rows, sentence, undecided=True)


def _answers_gate(answers: Answers) -> list[Gate]:
    """Only where it fails: a training that diverged answers with NaN, and argmax of NaN looks like an answer."""
    if not answers.broken:
        return []
    sentence = f"{answers.broken:,} of {len(answers.challenger):,} answers are not numbers: training diverged"
    return [_gate("answers", False, sentence)]


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


def _decided(interval: Interval, value: float, rows: int) -> str:
    """How many rows would tell the difference from a value, if it stays what it is."""
    needed = rows_to_exclude(interval, value, rows)
    return "" if needed is None else f"; if it stays so, about {needed:,} clean rows decide it"


def _champion_gate(delta: Difference, gates: Gates, rows: int, version: int | None) -> Gate:
    """Provably no worse: not below on these rows, and the interval stays above the margin.

    The first condition keeps many small losses, each within the margin, from adding up over the years.
    """
    measured = f"{gates.metric} {delta.point:+.3f} against version {version} ({_bounds(delta, gates.confidence)})"
    if delta.high < 0:
        return _gate("champion", False, f"{measured}: surely worse")
    if delta.point < 0:
        sentence = f"{measured}: worse on these rows, perhaps by chance{_decided(delta, 0, rows)}"
        return _gate("champion", False, sentence, undecided=True)
    if delta.low < -gates.margin:
        sentence = f"{measured}: it may be worse by {-delta.low:.3f}, and the margin is {gates.margin:g}"
        return _gate("champion", False, sentence + _decided(delta, -gates.margin, rows), undecided=True)
    return _gate("champion", True, f"{measured}, margin {gates.margin:g}")


def _base_gate(answers: Answers, metric: Metric, gates: Gates) -> list[Gate]:
    """A first model is worth its place only where it is surely better than what it was made from."""
    if answers.base is None or not len(answers.base):
        return []
    delta = difference(answers.challenger, answers.base, metric, confidence=gates.confidence)
    measured = f"{gates.metric} {delta.point:+.3f} against its base model ({_bounds(delta, gates.confidence)})"
    if delta.low > 0:
        return [_gate("base", True, measured)]
    if delta.high < 0:
        return [_gate("base", False, f"{measured}: surely worse")]
    decided = _decided(delta, 0, len(answers.base)) if delta.point > 0 else ""
    return [_gate("base", False, f"{measured}: no better, or perhaps by chance{decided}", undecided=True)]


def _bounds(interval: Interval, confidence: float) -> str:
    return f"{confidence * 100:g} % interval {interval.low:+.3f} to {interval.high:+.3f}"


def _slices(answers: Answers, metric: Metric, gates: Gates) -> tuple[Slice, ...]:
    """Scores and differences of each slice. The intervals share the error rate among the slices (Bonferroni)."""
    import numpy as np

    judged = [name for name, rows in answers.slices.items() if rows.sum() >= gates.slices.min_rows]
    confidence = 1 - (1 - gates.confidence) / max(len(judged), 1)
    slices = []
    for name, selected in sorted(answers.slices.items()):
        count = int(np.asarray(selected).sum())
        if not count:
            continue
        ours = answers.challenger.of(selected)
        delta, theirs = None, None
        if answers.champion is not None:
            champion = answers.champion.of(selected)
            theirs = score(champion, metric)
            delta = difference(ours, champion, metric, confidence=confidence)
        point = score(ours, metric)
        slices.append(
            Slice(name=name, rows=count, judged=name in judged, challenger=point, champion=theirs, difference=delta)
        )
    return tuple(slices)


def _slice_gates(slices: Sequence[Slice], gates: Gates) -> list[Gate]:
    """A slice that lost more than its margin: failed when it is surely worse, not decided when that may be chance.

    That its interval stays above the margin, as on all rows, is not asked: with 100 rows most good models would wait.
    """
    return [
        _gate(
            f"slice {part.name}",
            _holds(part, gates),
            f"{gates.metric} {part.difference.point:+.3f} on {part.rows:,} rows "
            f"({part.difference.low:+.3f} to {part.difference.high:+.3f}), margin {gates.slices.margin:g}"
            + ("" if _holds(part, gates) else _decided(part.difference, 0, part.rows)),
            undecided=part.difference.high >= 0,
        )
        for part in slices
        if part.judged and part.difference is not None
    ]


def _holds(part: Slice, gates: Gates) -> bool:
    return part.difference is None or part.difference.point >= -gates.slices.margin


def _forgetting_gate(anchor: Answers | None, metric: Metric, gates: Gates) -> list[Gate]:
    if anchor is None or gates.forgetting is None or anchor.champion is None:
        return []
    delta = difference(anchor.challenger, anchor.champion, metric, confidence=gates.confidence)
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
    rows: RowCounts,
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
