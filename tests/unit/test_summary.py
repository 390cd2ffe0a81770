"""The summary's headline says what happened in the end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from regraft import pipeline, recipe, summary
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL


def facts(
    stop: str = "", state: str = "", reason: str = "", refused_by: str | None = None, **more: Any
) -> dict[str, Any]:
    """Facts of a run that stopped in a step, or came to its end."""
    steps: list[dict[str, Any]] = []
    for step in pipeline.STEPS:
        was = "skipped" if steps and steps[-1]["state"] in ("refused", "failed", "skipped") else "done"
        was = state if step.name == stop else was
        why = reason if step.name == stop else None
        by = refused_by if step.name == stop else None
        told = {"step": step.name, "state": was, "reason": why, "refused_by": by}
        steps.append({**told, "cached": False, "cost": None, "seconds": 1.0})
    document: dict[str, Any] = {"recipe": "tiny", "run": "r", "steps": steps, "registered": 1, "prediction": None}
    document["stopped"] = next((s for s in steps if s["state"] in ("refused", "failed")), None)
    document["verdict"] = {"verdict": "promote", "sentence": "Promote: better.", "gates": []}
    document["champion"] = {"version": 1, "model": "m", "sequence": 1}
    document["serving"] = [{"version": 1, "state": "READY", "reason": None}]
    document |= {"deployed": None, "open": {}} | more
    document["outcome"] = summary.outcome(document, "m")
    return document


def verdict(name: str) -> dict[str, Any]:
    return {"verdict": name, "sentence": f"{name.capitalize()}: too few rows.", "gates": []}


@pytest.mark.parametrize(
    ("found", "state", "sentence"),
    [
        (facts(), "served", "Promoted and served: version 1"),
        (facts(serving=None), "served", "Promoted and served: version 1"),
        (facts(champion={"version": 2, "model": "n", "sequence": 2}), "replaced", "by now version 2 is champion"),
        (facts(champion=None), "replaced", "by now there is no champion"),
        (facts(serving=[]), "not served", "Promoted, not served: Triton does not serve version 1 now"),
        (
            facts("deploy", "refused", "version 1 is too slow", "rollout"),
            "not served",
            "Promoted, not served: version 1 is too",
        ),
        (facts("deploy", "failed", "the disk is full"), "not served", "Promoted, not served: the disk is full"),
        (
            facts("evaluate", "refused", "Hold: too few rows.", "gate", verdict=verdict("hold")),
            "held",
            "Held: too few rows.",
        ),
        (
            facts("evaluate", "refused", "Reject: too few rows.", "gate", verdict=verdict("reject")),
            "rejected",
            "Rejected: too few rows.",
        ),
        (facts("promote", "refused", "any words", "approval"), "waiting", "Not promoted yet: any words"),
        (
            facts("promote", "refused", "Reject: worse.", "gate", verdict=verdict("reject")),
            "rejected",
            "Rejected: worse.",
        ),
        (
            facts("validate", "refused", "half is bad", "contract", verdict=None),
            "refused",
            "Refused by validate: half is bad",
        ),
        (facts("finetune", "failed", "out of memory", verdict=None), "failed", "Failed in finetune: out of memory"),
        (facts("evaluate", "not run", verdict=None), "unfinished", "Not finished: evaluate has not run"),
        (facts("evaluate", "begun", verdict=None), "unfinished", "evaluate is at work, or was killed"),
    ],
)
def test_the_headline_says_what_happened_in_the_end(found: dict[str, Any], state: str, sentence: str) -> None:
    assert found["outcome"]["state"] == state
    assert sentence in found["outcome"]["sentence"]
    assert shown(found).splitlines()[2].strip("│ ").startswith(found["outcome"]["sentence"][:60])


def test_a_run_in_which_nothing_had_to_be_done_says_so() -> None:
    found = facts()
    for step in found["steps"]:
        step["cached"] = True
    assert summary.outcome(found, "m")["sentence"].endswith("all of it was there already")


def test_how_it_is_served_and_each_warning_of_deploy_are_shown() -> None:
    said = shown(facts(deployed={"precision": "bf16", "warnings": ["int8 was tried: [it] loses 0.02"]}))
    assert "served as   bf16" in said
    assert "! int8 was tried: [it] loses 0.02" in said


def test_what_a_step_had_foreseen_stands_beside_its_cost() -> None:
    found = facts()
    cost = {"seconds": 61.0, "cpu_seconds": 100.0, "peak_memory_bytes": 3 << 30}
    found["steps"][1] |= {"cost": cost, "foreseen": "2.9 of 3.2 GiB, 48 of 50 s for its steps"}
    assert "3221   foreseen 2.9 of 3.2 GiB, 48 of 50 s for its steps" in shown(found)


def test_the_live_answer_is_shown_in_the_few_words_of_its_task() -> None:
    said = shown(facts(prediction={"text": "a [dim] film", "short": "[bold] 97%", "version": 1}))
    assert "live        “a [dim] film” → [bold] 97%" in said


def test_of_golden_answers_that_an_earlier_regraft_kept_no_live_one_is_asked(tmp_path: Path) -> None:
    store = Store(str(tmp_path), "tiny")
    store.create("golden/m-1", b'{"texts": ["a film"], "labels": [0], "answers": [[0.1, 0.9]]}')
    assert summary.prediction("127.0.0.1:1", recipe.parse(MINIMAL), store, "m") is None


def shown(found: dict[str, Any]) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(summary.render(found))
    return file.getvalue()
