"""A judge beside the references: what it says, with and without its server, in the verdict and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.champions import GOOD
from tests.judges import Judge, at_work
from tests.worlds import Tiny, of

RIGHT, WRONG = "good story", "bad plot"


def better(asked: str, one: str, other: str) -> int:
    """Who reads the last question knows which answer is right; what is neither is worse than both."""
    right = RIGHT if asked.split()[-1] in GOOD else WRONG

    def rank(answer: str) -> int:
        return 2 if answer == right else answer in (RIGHT, WRONG)

    return (rank(one) > rank(other)) - (rank(one) < rank(other))


@pytest.fixture
def world(bases: Callable[[str], Path], mlflow_server: str, tmp_path: Path) -> Tiny:
    """A chat with a judge and its sample, under a name of its own: one MLflow server serves all."""
    made = Tiny(tmp_path, bases("chat"), {"MLFLOW_TRACKING_URI": mlflow_server}, "chat")
    asked = [row["messages"][0]["content"] for row in of("chat").rows(60, seed=5)]
    people = [
        {"asked": f"user: {text}", "first": RIGHT, "second": WRONG, "preferred": "first" if fits else "second"}
        for text in asked
        for fits in [text.split()[-1] in GOOD]
    ]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    text = made.recipe.read_text().replace("name: tiny\n", "name: judged\n")
    judge = f"judge: {{model: tiny-judge, sample: {tmp_path}/people.jsonl, max_rows: 60}}"
    made.recipe.write_text(text.replace("min_rows: 20, ", f"min_rows: 20, {judge}, "))
    made.store = type(made.store)(made.store.url, "judged")
    return made


def gates(world: Tiny) -> dict[str, Any]:
    verdict = json.loads(world.store.output(world.result("evaluate"), "verdict.json"))
    return {gate["name"]: gate for gate in verdict["gates"]}


@pytest.mark.timeout(600)
def test_a_judge_is_off_or_away_or_says_what_it_finds_once(world: Tiny) -> None:
    world.through("validate", "finetune")
    code, said = world.step("evaluate")
    assert code == 0, said
    assert "warning: gates.judge: off: REGRAFT_JUDGE_URL is not set" in said
    assert gates(world)["judge (off)"]["passed"]
    without = world.result("evaluate").identity

    code, said = world.step("evaluate", REGRAFT_JUDGE_URL="http://127.0.0.1:9/v1")
    assert code == 75, said
    assert "the judge at http://127.0.0.1:9/v1 does not answer" in said

    with at_work(Judge(better, wrong=0.1, first=0.1, key="only-for-tests")) as judge:
        server = {"REGRAFT_JUDGE_URL": judge.url, "REGRAFT_JUDGE_KEY": "only-for-tests"}
        code, said = world.step("evaluate", **server)
        assert code == 0, said
        assert "only-for-tests" not in said
        found = gates(world)["judge"]
        assert found["passed"], found
        assert "against the base model, 0.4 at least" in found["sentence"]
        result = world.result("evaluate")
        assert result.identity != without
        report = world.store.read(f"evaluate/{result.identity}/{result.attempt}/report.html").decode()
        assert "Judge: the base model&#39;s answer is better" in report

        asked = len(judge.asked)
        assert asked > 60
        world.recipe.write_text(world.recipe.read_text().replace("max_rows: 60", "max_rows: 60, margin: 0.2"))
        world.through("evaluate", **server)
        assert world.result("evaluate").identity != result.identity
        assert "0.3 at least" in gates(world)["judge"]["sentence"]
        assert len(judge.asked) == asked, "what it has said is kept"
