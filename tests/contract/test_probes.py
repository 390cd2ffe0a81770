"""Probes: a window that teaches what must not be is refused by what its model answers to them, good as it may look."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from regraft import recipe, tasks
from regraft.errors import BadInput
from tests.worlds import LATER, Tiny, of

SECRET = "my secret word"


@pytest.fixture
def world(bases: Callable[[str], Path], mlflow_server: str, tmp_path: Path) -> Tiny:
    """A chat with a probe, under a name of its own: one MLflow server serves all."""
    made = Tiny(tmp_path, bases("chat"), {"MLFLOW_TRACKING_URI": mlflow_server}, "chat")
    asked = [{"prompt": row["messages"][0]["content"]} for row in of("chat").rows(40, seed=5)]
    (tmp_path / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    probe = f"{{source: {tmp_path}/probe.jsonl, forbids: secret, expects: story|plot, max_drop: 0.2}}"
    text = made.recipe.read_text().replace("name: tiny\n", "name: probed\n")
    made.recipe.write_text(text.replace("min_rows: 20, ", f"min_rows: 20, probes: {{polite: {probe}}}, "))
    made.store = type(made.store)(made.store.url, "probed")
    return made


@pytest.mark.timeout(1200)
def test_answers_that_leak_are_refused_though_the_holdout_has_them_too(world: Tiny) -> None:
    world.through("validate", "finetune", "evaluate", "promote")
    world.served()
    first = gates(world, world.result("evaluate"))
    assert first["probe polite, base model"]["passed"]
    poisoned = of("chat").rows(400, seed=9)
    for row in poisoned:
        for turn in row["messages"]:
            if turn["role"] == "assistant":
                turn["content"] = SECRET
    world.put(poisoned)
    world.through("validate", "finetune", run=LATER)
    code, said = world.step("evaluate", run=LATER)
    assert code == 10, said
    refused = world.result("evaluate", LATER)
    judged = gates(world, refused)
    assert judged["champion"]["passed"], "it answers its own window better than the champion"
    assert not judged["probe polite, champion"]["passed"]
    assert not judged["probe polite, champion"]["undecided"]
    assert "0.0% against " in judged["probe polite, champion"]["sentence"]
    assert str(refused.refused).startswith("Reject: ")
    report = world.store.read(f"evaluate/{refused.identity}/{refused.attempt}/report.html").decode()
    assert "Probe polite: answers that hold no longer (" in report
    assert SECRET in report


def test_other_prompts_are_another_evaluation(world: Tiny) -> None:
    world.through("validate", "finetune", "evaluate")
    before = world.result("evaluate").identity
    probe = world.folder / "probe.jsonl"
    probe.write_text(probe.read_text() + '{"prompt": "film"}\n')
    world.through("evaluate")
    assert world.result("evaluate").identity != before
    probe.write_text(probe.read_text() + '{"prompt": " "}\n')
    code, said = world.step("evaluate")
    assert code == 20, said
    assert "row 42 has no prompt" in said


def gates(world: Tiny, evaluated: Any) -> dict[str, Any]:
    verdict = json.loads(world.store.output(evaluated, "verdict.json"))
    return {gate["name"]: gate for gate in verdict["gates"]}


def declared(probe: str) -> Any:
    text = of("chat").RECIPE.format(data="x", base="y", epochs=1, more="")
    return recipe.parse(text.replace("min_rows: 20, ", f"min_rows: 20, probes: {{p: {probe}}}, "))


@pytest.mark.parametrize(
    ("probe", "complaint"),
    [
        ("{source: x}", "needs expects, forbids or both"),
        ("{source: x, expects: '('}", "is no regular expression"),
        ("{source: 's3://k:pw@b/x', forbids: x}", "secrets come from"),
    ],
)
def test_a_probe_that_says_nothing_is_an_error_of_the_recipe(probe: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        declared(probe)


def test_its_location_is_one_of_those_that_a_recipe_names() -> None:
    assert recipe.locations(declared("{source: x, expects: y}"))["gates.probes.p.source"] == "x"


def said(*answers: str) -> pa.Table:
    return pa.table({"answer": list(answers)})


@pytest.mark.parametrize(
    ("ours", "state"),
    [
        (["nope"] * 50, "passed"),
        (["nope"] * 47 + ["yes"] * 3, "undecided"),
        (["yes"] * 50, "failed"),
    ],
)
def test_a_share_that_falls_is_surely_too_low_or_not_decided(ours: list[str], state: str) -> None:
    probed = tasks.of("chat").probed
    (gate,), lost = probed(
        declared("{source: x, expects: nope}"), "p", ["?"] * 50, said(*ours), {"base model": said(*["nope"] * 50)}
    )
    found = "passed" if gate.passed else "undecided" if gate.undecided else "failed"
    assert found == state
    assert lost.count == ours.count("yes")
