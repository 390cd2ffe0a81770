"""What a trial says of quantised answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.deploy import trial
from components.deploy.golden import Golden
from components.deploy.replica import NotServed
from tests import champions


def answers(wrong: int, *, rows: int = 400) -> tuple[Golden, np.ndarray]:
    """Offline answers that are all right, and served ones of which some are wrong."""
    labels = np.arange(rows) % 2
    offline = np.eye(2, dtype=np.float32)[labels]
    served = offline.copy()
    served[:wrong] = served[:wrong, ::-1]
    return Golden(texts=[""] * rows, labels=labels.tolist(), probabilities=offline), served


def test_int8_that_surely_loses_more_than_the_margin_is_refused_with_its_interval(tmp_path: Path) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, tmp_path))
    golden, served = answers(wrong=40)
    with pytest.raises(NotServed, match=r"int8 loses 0\.1000 of f1_macro \(0\.07\d+ to 0\.1\d+\) on 400 holdout rows"):
        trial._gates_hold(recipe, golden, served)


def test_int8_that_loses_what_may_be_chance_or_is_within_the_margin_is_served(tmp_path: Path) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, tmp_path))
    assert recipe.gates.margin < 2 / 60
    trial._gates_hold(recipe, *answers(wrong=2, rows=60))
    trial._gates_hold(recipe, *answers(wrong=2, rows=4000))
