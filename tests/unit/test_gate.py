"""The statistics that decide about promotion."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from regraft import gate, tally
from regraft.parts import ForgettingGate, SliceGate
from regraft.tasks import text_classification as task
from regraft.tasks.text_classification.recipe import Gates
from tests import classified

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
    rows = more.pop("rows", gate.RowCounts(holdout=len(labels), clean=len(labels), contaminated=0))
    champion = {"champion": gate.Judged(model="old", version=1)} if theirs is not None else {}
    return gate.judge(
        answers(labels, ours, theirs, slices=slices),
        gates,
        metrics=task.METRICS,
        rows=rows,
        challenger=gate.Judged(model="new"),
        own=own(gates, labels, ours, theirs),
        **champion,
        **more,
    )


def own(gates: Gates, labels: Any, ours: Any, theirs: Any) -> gate.Own:
    sides = (None if side is None else classified.answers(side) for side in (ours, theirs))
    return task.own(classified.recipe(ours.shape[1], gates), classified.rows(labels), *sides)


def tallied(labels: Any, probabilities: Any) -> tally.Tally:
    recipe, rows = classified.recipe(probabilities.shape[1]), classified.rows(labels)
    return task.tally(recipe, rows, classified.answers(probabilities))


def answers(labels: Any, ours: Any, theirs: Any = None, **more: Any) -> gate.Answers:
    champion = None if theirs is None else tallied(labels, theirs)
    broken = task.broken(classified.answers(ours))
    return gate.Answers(challenger=tallied(labels, ours), champion=champion, broken=broken, **more)


def difference(labels: Any, ours: Any, theirs: Any, *, metric: str, confidence: float) -> tally.Interval:
    sides = (tallied(labels, probabilities) for probabilities in (ours, theirs))
    return tally.difference(*sides, metric=task.METRICS[metric], confidence=confidence)


LABELS = labels_of(2000)


def test_better_is_promoted_worse_is_rejected_and_unclear_is_held() -> None:
    champion = model(LABELS, right=0.85, seed=1)
    assert judge(LABELS, model(LABELS, right=0.90, seed=2), champion).verdict == "promote"
    assert judge(LABELS, model(LABELS, right=0.78, seed=3), champion).verdict == "reject"
    unclear = judge(LABELS, model(LABELS, right=0.845, seed=4), champion)
    assert unclear.difference is not None
    assert unclear.difference.low < -GATES.margin < 0 < unclear.difference.high
    assert unclear.verdict == "hold"


@pytest.mark.parametrize(("margin", "won", "lost"), [(0.02, 40, 38), (0.005, 42, 36), (0.02, 36, 42)])
def test_a_verdict_that_holds_says_how_many_rows_decide_it_and_so_many_do(margin: float, won: int, lost: int) -> None:
    gates = GATES.model_copy(update={"margin": margin})
    labels, champion = LABELS[:600], model(LABELS, right=0.85, seed=1)[:600]
    right = champion.argmax(axis=1) == labels
    changed = np.concatenate([np.flatnonzero(~right)[:won], np.flatnonzero(right)[:lost]])
    challenger = champion.copy()
    challenger[changed] = challenger[changed][:, ::-1]
    held = judge(labels, challenger, champion, gates)
    assert held.verdict == "hold", held.sentence
    said = re.search(r"if it stays so, about ([\d,]+) clean rows decide it", held.sentence)
    assert said, held.sentence
    rows = int(said[1].replace(",", ""))

    def with_rows(rows: float) -> gate.Verdict:
        """The same answers as often as makes so many rows."""
        times = round(rows / len(labels))
        return judge(np.tile(labels, times), np.tile(challenger, (times, 1)), np.tile(champion, (times, 1)), gates)

    assert with_rows(1.3 * rows + 600).verdict != "hold", "so many decide it"
    assert with_rows(max(rows / 2, 600)).verdict == "hold", "and half of them do not"


def test_a_model_equal_to_the_champion_is_promoted_since_it_is_provably_no_worse() -> None:
    champion = model(LABELS, right=0.85, seed=1)
    verdict = judge(LABELS, champion.copy(), champion)
    assert verdict.difference is not None
    assert (verdict.difference.point, verdict.difference.low, verdict.difference.high) == (0, 0, 0)
    assert verdict.difference.model_extra == {"mcnemar_p": 1}
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
    there = difference(LABELS, one, two, metric="f1_macro", confidence=0.95)
    back = difference(LABELS, two, one, metric="f1_macro", confidence=0.95)
    assert there.point == pytest.approx(-back.point)
    assert there.low == pytest.approx(-back.high, abs=0.002)
    assert there.high == pytest.approx(-back.low, abs=0.002)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_points_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=200)
    given = model(labels, right=0.7, seed=seed + 1, classes=classes)
    found = tally.scores(tallied(labels, given), task.METRICS, confidence=0.9)
    predicted = given.argmax(axis=1)
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
        found = difference(labels, one, two, metric="accuracy", confidence=0.9)
        covered += found.low <= truth <= found.high
    assert 0.84 <= covered / trials <= 0.96  # 0.9 give or take three standard errors


def test_without_a_champion_only_floors_and_ceilings_apply() -> None:
    good = judge(LABELS, model(LABELS, right=0.8, seed=1), gates=GATES.model_copy(update={"floors": {"accuracy": 0.7}}))
    assert good.verdict == "promote"
    assert "there is no champion yet" in good.sentence
    low = judge(LABELS, model(LABELS, right=0.6, seed=1), gates=GATES.model_copy(update={"floors": {"accuracy": 0.7}}))
    assert low.verdict == "reject"
    assert "floor accuracy" in low.sentence


@pytest.mark.parametrize(
    ("right", "verdict", "said"),
    [(0.9, "promote", "against its base model"), (0.7, "hold", "by chance"), (0.4, "reject", "surely worse")],
)
def test_a_first_model_has_to_be_surely_better_than_its_base_where_that_answers_by_itself(
    right: float, verdict: str, said: str
) -> None:
    base, ours = model(LABELS, right=0.7, seed=1), model(LABELS, right=right, seed=2 if right != 0.7 else 1)
    found = gate.judge(
        answers(LABELS, ours, base=tallied(LABELS, base)),
        GATES,
        metrics=task.METRICS,
        rows=gate.RowCounts(holdout=len(LABELS), clean=len(LABELS), contaminated=0),
        challenger=gate.Judged(model="new"),
    )
    assert found.verdict == verdict
    (gated,) = [each for each in found.gates if each.name == "base"]
    assert said in gated.sentence
    assert found.champion is None


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
    rows = gate.RowCounts(holdout=500, clean=0, contaminated=500)
    gates = GATES.model_copy(update={"floors": {"accuracy": 0.9}, "max_calibration_error": 0.1})
    verdict = judge(np.zeros(0, dtype=int), nothing, nothing, gates, rows=rows)
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
        difference(labels, one, two, metric="f1_macro", confidence=0.95)
        assert tracemalloc.get_traced_memory()[1] < 500e6  # all combinations of 40 labels would be 5 GB
    finally:
        tracemalloc.stop()


def test_rare_cells_drawn_together_are_distributed_as_the_multinomial_says() -> None:
    counts = np.concatenate([[60, 9], np.arange(tally.FEW_CELLS) % tally.RARE + 1])
    drawn = tally._drawn(np.random.default_rng(3), counts, 40_000)
    rows = counts.sum()
    assert (drawn.sum(axis=0) == rows).all()
    share = counts / rows
    meant = rows * (np.diag(share) - np.outer(share, share))
    assert np.abs(drawn.mean(axis=1) - counts).max() < 5 * np.sqrt(meant.max() / 40_000)
    off = (np.cov(drawn) - meant) / np.sqrt(np.outer(np.diag(meant), np.diag(meant)))
    assert np.abs(off).max() < 0.04


def test_few_cells_are_drawn_as_numpy_draws_a_multinomial() -> None:
    counts = np.arange(1, tally.FEW_CELLS + 1)
    plain = np.random.default_rng(3).multinomial(counts.sum(), counts / counts.sum(), size=50)
    assert (tally._drawn(np.random.default_rng(3), counts, 50) == plain.T).all()


def test_rows_are_resampled_once_for_each_model_their_difference_and_each_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def counted(chance: Any, counts: Any, size: int) -> Any:
        drawn.append(size)
        return draw(chance, counts, size)

    draw = tally._drawn
    monkeypatch.setattr(tally, "_drawn", counted)
    labels = labels_of(5000, 150)
    one, two = (model(labels, right=right, seed=i, classes=150) for i, right in enumerate((0.85, 0.84)))
    third = np.arange(len(labels)) % 3
    judge(labels, one, two, slices={f"third={i}": third == i for i in range(3)})
    assert sum(drawn) == (2 + 1 + 3) * tally.RESAMPLES


def test_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    one, two = model(LABELS, right=0.85, seed=1), model(LABELS, right=0.82, seed=2)
    ours = difference(LABELS, one, two, metric="accuracy", confidence=0.95)
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
    forgot = answers(LABELS, model(LABELS, right=0.6, seed=3), champion)
    kept = answers(LABELS, better, champion)
    assert judge(LABELS, better, champion, gates, anchor=forgot).verdict == "reject"
    assert judge(LABELS, better, champion, gates, anchor=kept).verdict == "promote"


def test_a_model_that_is_surer_than_right_is_rejected_where_the_recipe_says_so() -> None:
    gates = GATES.model_copy(update={"max_calibration_error": 0.1})
    honest, boastful = model(LABELS, right=0.8, seed=1, sure=0.8), model(LABELS, right=0.8, seed=1, sure=0.99)
    assert judge(LABELS, honest, gates=gates).verdict == "promote"
    verdict = judge(LABELS, boastful, gates=gates)
    assert (verdict.challenger.model_extra or {})["calibration_error"] == pytest.approx(0.19, abs=0.03)
    assert verdict.verdict == "reject"


def test_the_verdict_names_no_measured_time_so_that_it_is_the_same_on_every_machine() -> None:
    gates = GATES.model_copy(update={"max_latency_ms": 50.0})
    given = model(LABELS, right=0.8, seed=1)
    assert judge(LABELS, given, gates=gates, latency_ms=12.3) == judge(LABELS, given, gates=gates, latency_ms=45.6)
    assert judge(LABELS, given, gates=gates, latency_ms=51.0).verdict == "reject"


def test_a_verdict_survives_being_written_and_read() -> None:
    verdict = judge(LABELS, model(LABELS, right=0.9, seed=2), model(LABELS, right=0.85, seed=1))
    assert gate.Verdict.model_validate_json(verdict.model_dump_json()) == verdict
