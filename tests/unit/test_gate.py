"""The statistics that decide about promotion."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from regraft import gate, intervals
from regraft.parts import ForgettingGate, Gates, SliceGate

GATES = Gates(metric="accuracy", margin=0.02, min_rows=100)


def model(labels: Any, *, right: float, seed: int, classes: int = 2, sure: float = 0.9) -> Any:
    """Probabilities of a model that is right on a given share of rows."""
    chance = np.random.default_rng(seed)
    correct = chance.random(len(labels)) < right
    answers = np.where(correct, labels, (labels + 1 + chance.integers(classes - 1, size=len(labels))) % classes)
    return np.where(np.eye(classes)[answers] == 1, sure, (1 - sure) / (classes - 1))


def labels_of(rows: int, classes: int = 2) -> Any:
    return np.random.default_rng(7).integers(classes, size=rows)


def judge(labels: Any, ours: Any, theirs: Any = None, gates: Gates = GATES, **more: Any) -> gate.Verdict:
    slices = more.pop("slices", {})
    answers = gate.Answers(labels=labels, challenger=ours, champion=theirs, slices=slices)
    rows = gate.Rows(holdout=len(labels), clean=len(labels), contaminated=0)
    champion = {"champion": "old", "version": 1} if theirs is not None else {}
    return gate.judge(answers, gates, rows=rows, challenger="new", **champion, **more)


LABELS = labels_of(2000)


def test_better_is_promoted_worse_is_rejected_and_unclear_is_held() -> None:
    champion = model(LABELS, right=0.85, seed=1)
    assert judge(LABELS, model(LABELS, right=0.90, seed=2), champion).verdict == "promote"
    assert judge(LABELS, model(LABELS, right=0.78, seed=3), champion).verdict == "reject"
    unclear = judge(LABELS, model(LABELS, right=0.845, seed=4), champion)
    assert unclear.difference is not None
    assert unclear.difference.low < -GATES.margin < 0 < unclear.difference.high
    assert unclear.verdict == "hold"


def test_a_model_equal_to_the_champion_is_promoted_since_it_is_provably_no_worse() -> None:
    champion = model(LABELS, right=0.85, seed=1)
    verdict = judge(LABELS, champion.copy(), champion)
    assert verdict.difference is not None
    assert (verdict.difference.point, verdict.difference.low, verdict.difference.high) == (0, 0, 0)
    assert verdict.difference.mcnemar_p == 1
    assert verdict.verdict == "promote"


def test_a_small_loss_within_the_margin_is_held_so_that_losses_cannot_add_up() -> None:
    champion = model(LABELS, right=0.85, seed=1)
    challenger = champion.copy()
    lost = np.flatnonzero(champion.argmax(axis=1) == LABELS)[:4]
    challenger[lost] = challenger[lost][:, ::-1]
    verdict = judge(LABELS, challenger, champion, GATES.model_copy(update={"margin": 0.05}))
    assert verdict.difference is not None
    assert verdict.difference.low > -0.05
    assert verdict.verdict != "promote"


def test_swapping_the_models_mirrors_the_difference() -> None:
    one, two = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.88, seed=2)
    there = intervals.difference(LABELS, one, two, metric="f1_macro", confidence=0.95)
    back = intervals.difference(LABELS, two, one, metric="f1_macro", confidence=0.95)
    assert there.point == pytest.approx(-back.point)
    assert there.low == pytest.approx(-back.high, abs=0.002)
    assert there.high == pytest.approx(-back.low, abs=0.002)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_points_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=200)
    answers = model(labels, right=0.7, seed=seed + 1, classes=classes)
    found = intervals.scores(labels, answers, confidence=0.9)
    predicted = answers.argmax(axis=1)
    assert found["accuracy"].point == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
    macro = f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0)
    assert found["f1_macro"].point == pytest.approx(macro, abs=1e-6)
    assert all(interval.low <= interval.point <= interval.high for interval in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    one, two = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.86, seed=2)
    order = np.random.default_rng(seed).permutation(len(LABELS))
    assert judge(LABELS[order], one[order], two[order]) == judge(LABELS, one, two)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    truth, covered, trials = 0.05, 0, 200
    for trial in range(trials):
        labels = np.random.default_rng(trial).integers(2, size=400)
        one, two = model(labels, right=0.85, seed=trial + 1000), model(labels, right=0.80, seed=trial + 2000)
        found = intervals.difference(labels, one, two, metric="accuracy", confidence=0.9)
        covered += found.low <= truth <= found.high
    assert 0.84 <= covered / trials <= 0.96  # 0.9 give or take three standard errors


def test_without_a_champion_only_floors_and_ceilings_apply() -> None:
    good = judge(LABELS, model(LABELS, right=0.8, seed=1), gates=GATES.model_copy(update={"floors": {"accuracy": 0.7}}))
    assert good.verdict == "promote"
    assert "there is no champion yet" in good.sentence
    low = judge(LABELS, model(LABELS, right=0.6, seed=1), gates=GATES.model_copy(update={"floors": {"accuracy": 0.7}}))
    assert low.verdict == "reject"
    assert "floor accuracy" in low.sentence


def test_too_few_clean_rows_hold() -> None:
    labels = labels_of(60)
    verdict = judge(labels, model(labels, right=0.9, seed=1), model(labels, right=0.85, seed=1))
    assert verdict.verdict == "hold"
    assert "60 clean holdout rows, 100 needed" in verdict.sentence


def test_too_few_clean_rows_hold_whatever_else_they_seem_to_say() -> None:
    labels = labels_of(60)
    right = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    gates = GATES.model_copy(update={"floors": {"accuracy": 0.9}})
    verdict = judge(labels, 1 - right, right, gates)
    assert verdict.difference is not None
    assert verdict.difference.high < 0
    assert verdict.verdict == "hold"


def test_no_clean_row_at_all_is_a_verdict_too() -> None:
    nothing = np.zeros((0, 2))
    rows = gate.Rows(holdout=500, clean=0, contaminated=500)
    answers = gate.Answers(labels=np.zeros(0, dtype=int), challenger=nothing, champion=nothing)
    gates = GATES.model_copy(update={"floors": {"accuracy": 0.9}, "max_calibration_error": 0.1})
    verdict = gate.judge(answers, gates, rows=rows, challenger="new", champion="old", version=1)
    assert verdict.verdict == "hold"
    assert "none of the 500 holdout rows is clean" in verdict.sentence


def test_answers_that_are_not_numbers_are_rejected() -> None:
    """No floor in the recipe: argmax of NaN is label 0, which alone would make a first champion."""
    verdict = judge(LABELS, np.full((len(LABELS), 2), np.nan))
    assert verdict.verdict == "reject"
    assert "2,000 of 2,000 answers are not numbers" in verdict.sentence


def test_a_first_model_that_is_rejected_leaves_no_champion_to_speak_of() -> None:
    verdict = judge(
        LABELS, model(LABELS, right=0.6, seed=1), gates=GATES.model_copy(update={"floors": {"accuracy": 0.7}})
    )
    assert "champion stays" not in verdict.sentence
    assert "Nothing is promoted" in verdict.sentence


def test_many_labels_need_little_memory() -> None:
    labels = labels_of(600, 40)
    tracemalloc.start()
    try:
        one, two = (model(labels, right=right, seed=i, classes=40) for i, right in enumerate((0.8, 0.7)))
        intervals.difference(labels, one, two, metric="f1_macro", confidence=0.95)
        assert tracemalloc.get_traced_memory()[1] < 500e6  # all combinations of 40 labels would be 5 GB
    finally:
        tracemalloc.stop()


def test_rare_cells_drawn_together_are_distributed_as_the_multinomial_says() -> None:
    counts = np.concatenate([[60, 9], np.arange(intervals.FEW_CELLS) % intervals.RARE + 1])
    drawn = intervals._drawn(np.random.default_rng(3), counts, 40_000)
    rows = counts.sum()
    assert (drawn.sum(axis=0) == rows).all()
    share = counts / rows
    meant = rows * (np.diag(share) - np.outer(share, share))
    assert np.abs(drawn.mean(axis=1) - counts).max() < 5 * np.sqrt(meant.max() / 40_000)
    off = (np.cov(drawn) - meant) / np.sqrt(np.outer(np.diag(meant), np.diag(meant)))
    assert np.abs(off).max() < 0.04


def test_few_cells_are_drawn_as_numpy_draws_a_multinomial() -> None:
    counts = np.arange(1, intervals.FEW_CELLS + 1)
    plain = np.random.default_rng(3).multinomial(counts.sum(), counts / counts.sum(), size=50)
    assert (intervals._drawn(np.random.default_rng(3), counts, 50) == plain.T).all()


def test_rows_are_resampled_once_for_each_model_their_difference_and_each_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def counted(chance: Any, counts: Any, size: int) -> Any:
        drawn.append(size)
        return draw(chance, counts, size)

    draw = intervals._drawn
    monkeypatch.setattr(intervals, "_drawn", counted)
    labels = labels_of(5000, 150)
    one, two = (model(labels, right=right, seed=i, classes=150) for i, right in enumerate((0.85, 0.84)))
    third = np.arange(len(labels)) % 3
    judge(labels, one, two, slices={f"third={i}": third == i for i in range(3)})
    assert sum(drawn) == (2 + 1 + 3) * intervals.RESAMPLES


def test_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    one, two = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.82, seed=2)
    ours = intervals.difference(LABELS, one, two, metric="accuracy", confidence=0.95)
    rights = [(answers.argmax(axis=1) == LABELS).astype(float) for answers in (one, two)]
    theirs = bootstrap(
        rights,
        lambda first, second, axis: first.mean(axis=axis) - second.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        batch=500,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)


def test_a_slice_that_got_surely_worse_rejects_what_is_better_on_the_whole() -> None:
    rare = np.arange(len(LABELS)) < 300
    champion = model(LABELS, right=0.85, seed=1)
    challenger = np.where(rare[:, None], model(LABELS, right=0.6, seed=2), model(LABELS, right=0.95, seed=3))
    verdict = judge(LABELS, challenger, champion, slices={"kind=rare": rare, "kind=usual": ~rare})
    assert verdict.difference is not None
    assert verdict.difference.low > 0
    assert verdict.verdict == "reject"
    assert "slice kind=rare" in verdict.sentence


def test_a_slice_that_lost_more_than_its_margin_perhaps_by_chance_holds() -> None:
    rare = np.arange(len(LABELS)) < 100
    champion = model(LABELS, right=0.85, seed=1)
    challenger = np.where(rare[:, None], champion, model(LABELS, right=0.95, seed=3))
    right, wrong = (np.flatnonzero(rare & found) for found in _right_and_wrong(champion))
    turned = np.concatenate([right[:12], wrong[:5]])  # 7 of 100 rows fewer, of 17 that differ
    challenger[turned] = challenger[turned][:, ::-1]
    verdict = judge(LABELS, challenger, champion, slices={"kind=rare": rare})
    (part,) = verdict.slices
    assert part.difference is not None
    assert part.difference.point == pytest.approx(-0.07)
    assert part.difference.high > 0
    assert verdict.verdict == "hold"
    assert "slice kind=rare" in verdict.sentence


def _right_and_wrong(answers: Any) -> tuple[Any, Any]:
    right = answers.argmax(axis=1) == LABELS
    return right, ~right


def test_a_slice_with_few_rows_is_shown_but_not_judged() -> None:
    rare = np.arange(len(LABELS)) < 20
    champion = model(LABELS, right=0.85, seed=1)
    challenger = np.where(rare[:, None], champion[:, ::-1], model(LABELS, right=0.93, seed=3))
    gates = GATES.model_copy(update={"slices": SliceGate(min_rows=50)})
    verdict = judge(LABELS, challenger, champion, gates, slices={"kind=rare": rare})
    assert [part.judged for part in verdict.slices] == [False]
    assert verdict.verdict == "promote"


def test_the_more_slices_the_wider_their_intervals() -> None:
    champion, challenger = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.86, seed=2)
    half = np.arange(len(LABELS)) % 2 == 0
    few = judge(LABELS, challenger, champion, slices={"a": half})
    many = judge(LABELS, challenger, champion, slices={"a": half} | {f"b{i}": half for i in range(9)})
    assert few.slices[0].difference is not None
    assert many.slices[0].difference is not None
    assert many.slices[0].difference.low < few.slices[0].difference.low


def test_what_was_forgotten_on_the_anchor_set_rejects() -> None:
    gates = GATES.model_copy(update={"forgetting": ForgettingGate(anchor="x", max_drop=0.02)})
    champion, better = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.92, seed=2)
    forgot = gate.Answers(labels=LABELS, challenger=model(LABELS, right=0.6, seed=3), champion=champion)
    kept = gate.Answers(labels=LABELS, challenger=better, champion=champion)
    assert judge(LABELS, better, champion, gates, anchor=forgot).verdict == "reject"
    assert judge(LABELS, better, champion, gates, anchor=kept).verdict == "promote"


def test_a_model_that_is_surer_than_right_is_rejected_where_the_recipe_says_so() -> None:
    gates = GATES.model_copy(update={"max_calibration_error": 0.1})
    honest, boastful = model(LABELS, right=0.8, seed=1, sure=0.8), model(LABELS, right=0.8, seed=1, sure=0.99)
    assert judge(LABELS, honest, gates=gates).verdict == "promote"
    verdict = judge(LABELS, boastful, gates=gates)
    assert verdict.challenger.calibration_error == pytest.approx(0.19, abs=0.03)
    assert verdict.verdict == "reject"


def test_the_verdict_names_no_measured_time_so_that_it_is_the_same_on_every_machine() -> None:
    gates = GATES.model_copy(update={"max_latency_ms": 50.0})
    answers = model(LABELS, right=0.8, seed=1)
    assert judge(LABELS, answers, gates=gates, latency_ms=12.3) == judge(LABELS, answers, gates=gates, latency_ms=45.6)
    assert judge(LABELS, answers, gates=gates, latency_ms=51.0).verdict == "reject"


def test_a_verdict_survives_being_written_and_read() -> None:
    verdict = judge(LABELS, model(LABELS, right=0.9, seed=2), model(LABELS, right=0.85, seed=1))
    assert gate.Verdict.model_validate_json(verdict.model_dump_json()) == verdict
