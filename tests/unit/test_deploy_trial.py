"""What a trial says of answers that are near the offline ones, and worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.deploy import trial
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from regraft.tasks.text_classification.served import Served
from tests import champions, classified


def answered(probabilities: np.ndarray) -> Served:
    """What Triton answers."""
    return Served([""] * len(probabilities), probabilities)


def answers(wrong: int, *, rows: int = 400) -> tuple[Golden, Served]:
    """Offline answers that are all right, and served ones of which some are wrong."""
    labels = np.arange(rows) % 2
    offline = np.eye(2, dtype=np.float32)[labels]
    served = offline.copy()
    served[:wrong] = served[:wrong, ::-1]
    return Golden(rows=classified.rows(labels), answers=classified.answers(offline)), answered(served)


def test_answers_that_surely_lose_more_than_the_margin_are_refused_with_the_interval(tmp_path: Path) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, tmp_path))
    golden, served = answers(wrong=40)
    with pytest.raises(NotServed, match=r"loses 0\.1000 of f1_macro \(0\.07\d+ to 0\.1\d+\) on 400 holdout rows"):
        trial._loses_nothing(recipe, golden, served)


def test_a_loss_that_may_be_within_the_margin_is_no_loss(tmp_path: Path) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, tmp_path))
    assert recipe.gates.margin < 8 / 500, "the loss that was seen is above the margin, its interval is not"
    trial._loses_nothing(recipe, *answers(wrong=8, rows=500))


def test_answers_that_depend_on_their_batch_are_refused(tmp_path: Path) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, tmp_path))
    batched = np.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]], dtype=np.float32)
    assert trial._independent(recipe, answered(batched[:2] + np.float32(1e-6)), answered(batched)) < 1e-5
    other = batched[:2] - np.array([[0, 0], [0.1, 0]], dtype=np.float32)
    with pytest.raises(NotServed, match=r"differs by 0\.1000 with the rows that share its batch"):
        trial._independent(recipe, answered(other), answered(batched))
