"""A model that goes on learning is refused where it forgets, however well it learned what is new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.gate import Verdict
from tests.worlds import LATER, Tiny, of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_texts_of_another_kind_are_learned_from_the_champion_on_and_refused_for_what_is_forgotten(
    bases: Callable[[str], Path], mlflow_server: str, tmp_path: Path
) -> None:
    world = Tiny(tmp_path, bases("pretraining"), {"MLFLOW_TRACKING_URI": mlflow_server}, "pretraining")
    anchor = tmp_path / "anchor.jsonl"
    anchor.write_text(world.data.read_text())
    told = {
        "name: tiny\n": "name: forgetting\n",
        "early_stopping: null": "early_stopping: null, warm_start: true",
        f"{{anchor: {world.data}, max_drop: 0.5}}": f"{{anchor: {anchor}, max_drop: 0.005}}",
    }
    for before, after in told.items():
        assert before in world.recipe.read_text()
        world.recipe.write_text(world.recipe.read_text().replace(before, after))
    world.store = type(world.store)(world.store.url, "forgetting")
    world.through("validate", "finetune", "evaluate", "promote")
    world.put(of("pretraining").rows(400, seed=1, wrong=1.0))
    world.through("validate", "finetune", run=LATER)
    code, output = world.step("evaluate", run=LATER)
    assert code == 10, output
    assert "Failed: forgetting: " in output
    assert world.result("finetune", LATER).inputs["warm_start"] == world.result("finetune").identity
    result = world.result("evaluate", LATER)
    file = Path(world.store.path(f"evaluate/{result.identity}/{result.attempt}/verdict.json"))
    verdict = Verdict.read(file.read_bytes(), where=str(file))
    assert [gate.name for gate in verdict.gates if not gate.passed] == ["forgetting"]
    assert verdict.difference is not None
    assert verdict.difference.low > 0, "it learned what is new"
