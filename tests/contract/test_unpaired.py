"""Answers that were liked or disliked, each by itself, go through all steps to a champion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from tests.worlds import Tiny, of


@pytest.fixture
def world(bases: Callable[[str], Path], mlflow_server: str, tmp_path: Path) -> Tiny:
    """Preferences of single answers, under a name of its own: one MLflow server serves all."""
    made = Tiny(tmp_path, bases("preferences"), {"MLFLOW_TRACKING_URI": mlflow_server}, "preferences")
    made.put(
        [
            {"prompt": row["prompt"], "answer": row["rejected" if number % 3 else "chosen"], "thumb": number % 3 == 0}
            for number, row in enumerate(of("preferences").rows(500))
        ]
    )
    text = made.recipe.read_text().replace("name: tiny\n", "name: thumbs\n")
    text = text.replace("chosen: chosen, rejected: rejected", "answer: answer, liked: thumb")
    made.recipe.write_text(text.replace("max_length: 64", "max_length: 64, loss: kto"))
    made.store = type(made.store)(made.store.url, "thumbs")
    return made


@pytest.mark.timeout(600)
def test_thumbs_make_a_champion_that_is_surely_better_than_its_base(
    world: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.through("validate", "finetune", "evaluate", "promote")
    judged = world.result("evaluate")
    verdict = json.loads(world.store.output(judged, "verdict.json"))
    assert verdict["verdict"] == "promote"
    assert verdict["challenger"]["intervals"]["accuracy"]["low"] > 0.7
    assert [gate["passed"] for gate in verdict["gates"] if gate["name"] == "base"] == [True]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.environment["MLFLOW_TRACKING_URI"])
    assert mlflow.MlflowClient().get_model_version_by_alias("thumbs", "champion").version == "1"
