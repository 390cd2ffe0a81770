"""Answers that people liked or disliked, each by itself: how they are read, KTO's loss, and what a model learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.finetune import train
from regraft import recipe, tally, tasks
from regraft.causal import Causal
from regraft.errors import BadInput
from regraft.tasks.preferences import metrics, report, unpaired
from regraft.tasks.preferences.recipe import Data, Training
from regraft.tasks.preferences.rows import counts, rows
from tests import llamas
from tests.worlds import preferences as world

TASK = tasks.of("preferences")
DATA = Data.model_validate({"source": "x", "columns": {"prompt": "p", "answer": "a", "liked": "l"}})
PAIRED = "prompt: prompt, chosen: chosen, rejected: rejected"
SAID = {"role": "assistant", "content": "Here."}


def declared(base: Path, **more: str) -> Any:
    text = world.RECIPE.format(data="nowhere", base=base, epochs=2, more="")
    text = text.replace(PAIRED, "prompt: prompt, answer: answer, liked: liked")
    return recipe.parse(text.replace("max_length: 64", "max_length: 64, loss: kto"))


def frozen(count: int, seed: int = 0) -> Any:
    """Of each pair of the tiny world one of both answers, by turns, with what people say of it."""
    made = [
        {"prompt": row["prompt"], "answer": row["rejected" if number % 3 else "chosen"], "liked": str(number % 3 == 0)}
        for number, row in enumerate(world.rows(count, seed=seed))
    ]
    found = rows({key: pa.array([row[key] for row in made]) for key in made[0]}, DATA)
    return pa.table({"text": found.text, **found.target})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize(
    ("answer", "liked", "frozen", "problem"),
    [
        ("Here.", "true", ("Here.", ""), None),
        ("Here.", "1", ("Here.", ""), None),
        (json.dumps([SAID]), '"True"', ("Here.", ""), None),
        ("Here.", "0.0", ("", "Here."), None),
        ("Here.", "False", ("", "Here."), None),
        ("Here.", None, None, "neither liked nor disliked"),
        ("Here.", "2", None, "neither liked nor disliked"),
        (" ", "true", None, "no answer"),
        (json.dumps([{"role": "owner", "content": "x"}]), "true", None, "unknown role"),
    ],
)
def test_one_answer_is_one_row(answer: str, liked: Any, frozen: Any, problem: str | None) -> None:
    read = rows({"prompt": pa.array(["Where?"]), "answer": pa.array([answer]), "liked": pa.array([liked])}, DATA)
    assert next((reason for reason, applies in read.problems if applies[0]), None) == problem
    if frozen:
        sides = [read.target[side][0].as_py() for side in ("chosen", "rejected")]
        assert tuple(json.loads(side)["content"] if side else "" for side in sides) == frozen
        assert read.shown[0].as_py() == f"{'liked' if frozen[0] else 'disliked'}: Here."


def test_answers_are_counted_by_whether_they_were_liked() -> None:
    assert counts(frozen(9), DATA) == {"liked": 3, "disliked": 6}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (PAIRED, "prompt: prompt, answer: answer, liked: liked", r"training.loss kto is for data.columns"),
        ("max_length: 64", "max_length: 64, loss: kto", r"training.loss kto is for data.columns"),
        (PAIRED, "prompt: prompt, answer: answer", "either chosen and rejected, or answer and liked"),
        (PAIRED, f"{PAIRED}, liked: liked", "and not both forms"),
    ],
)
def test_a_loss_is_for_its_rows(before: str, after: str, said: str) -> None:
    text = world.RECIPE.format(data="nowhere", base="nowhere", epochs=1, more="")
    with pytest.raises(BadInput, match=said):
        recipe.parse(text.replace(before, after))


def test_the_loss_of_a_batch_is_the_papers_by_hand() -> None:
    """Rewards 2 and -1 of a liked and a disliked answer, and 0.5 on average of answers to other prompts."""
    import torch

    reward = torch.tensor([[2.0, 1.5], [-1.0, -0.5]])
    likes = torch.tensor([True, False])
    found = unpaired.loss(Training(loss="kto", beta=0.4), (3.0, 1.0), reward, likes)
    by_hand = [3 * (1 - 1 / (1 + math.exp(-0.4 * 1.5))), 1 - 1 / (1 + math.exp(-0.4 * 1.5))]
    assert found.tolist() == pytest.approx(by_hand)
    nearer = unpaired.loss(Training(loss="kto", beta=0.4), (3.0, 1.0), reward - torch.tensor([0.0, 9.0]), likes)
    assert nearer[1] == pytest.approx(1 / (1 + math.exp(0.4))), "what would be nearer than the base counts as that"


def test_the_reference_point_has_no_gradient() -> None:
    import torch

    reward = torch.tensor([[2.0, 1.5], [-1.0, -0.5]], requires_grad=True)
    unpaired.loss(Training(loss="kto"), (1.0, 1.0), reward, torch.tensor([True, False])).sum().backward()
    assert reward.grad is not None
    assert reward.grad[:, 1].tolist() == [0, 0]
    assert reward.grad[0, 0] < 0 < reward.grad[1, 0]


def test_both_kinds_count_the_same_in_all() -> None:
    assert unpaired.weights([True] * 3 + [False] * 9) == (3.0, 1.0)
    assert unpaired.weights([True] * 9 + [False] * 3) == (1.0, 3.0)
    assert unpaired.weights([True] * 3) == (1.0, 1.0)


def test_the_other_answer_is_one_to_another_prompt() -> None:
    assert unpaired.others(["a", "b", "b", "c"]) == [3, 0, 0, 2]
    assert unpaired.others(["a"]) == [0]


def test_the_loss_is_the_papers_for_a_model(base: Path, tmp_path: Path) -> None:
    """From log-likelihoods that are asked a row at a time."""
    import torch

    said, table = declared(base), frozen(6)
    model, tokenizer = TASK.for_training(said, tmp_path)
    llamas.teach(model, std=0.2)
    made = TASK.lesson(said, tokenizer, table, table).knowing(model)
    batch = made.collator([made.train(list(range(6)))[number] for number in range(6)])
    labels = batch.pop("labels")
    with torch.no_grad():
        found = float(made.loss(model(**batch), labels))
    asked = Causal(model.eval(), tokenizer, 64, 12)

    def moved(row: int, of: int) -> float:
        """By how much the answer of one row became more probable after the prompt of another."""
        sides = {side: [table[side][of].as_py()] for side in ("chosen", "rejected")}
        (a,) = TASK.answers(asked, pa.table({"text": [table["text"][row].as_py()], **sides})).to_pylist()
        return float(a["chosen"] - a["base_chosen"] + a["rejected"] - a["base_rejected"])

    left = max(float(np.mean([moved(row, (row - 1) % 6) for row in range(6)])), 0.0)
    likes = unpaired.liked(table)
    gains = [(1 if liked else -1) * (moved(row, row) - left) for row, liked in enumerate(likes)]
    each = [(2 if liked else 1) / (1 + math.exp(0.1 * gain)) for liked, gain in zip(likes, gains, strict=True)]
    assert found == pytest.approx(np.mean(each), rel=1e-3)


def test_a_model_learns_what_is_liked(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said, held = declared(base), frozen(60, seed=7)
    model, tokenizer = TASK.for_training(said, tmp_path)
    taught = TASK.lesson(said, tokenizer, frozen(300), held)
    trainer = train.trainer_of(said, model, taught, folder=Path("trainer"))
    trainer.train()
    asked = Causal(model.eval(), tokenizer, 64, 12)
    answers = TASK.answers(asked, held)
    accuracy = metrics.METRICS["accuracy"]
    assert tally.score(TASK.tally(said, held, answers), accuracy) > 0.8
    plain = TASK.answers(TASK.untrained(asked), held)
    assert tally.score(TASK.tally(said, held, plain), accuracy) == 0.5
    assert trainer.state.log_history[-2]["eval_accuracy"] == pytest.approx(
        tally.score(TASK.tally(said, held, answers), accuracy), abs=0.05
    )


def test_an_answer_that_is_not_there_counts_nothing(base: Path) -> None:
    columns = {"chosen": [-4.0, 0.0, -6.0], "rejected": [0.0, -7.0, 0.0]}
    columns |= {"base_chosen": [-5.0, 0.0, -5.0], "base_rejected": [0.0, -5.0, 0.0]}
    answers = pa.table({**columns, "chosen_tokens": [2, 0, 3], "rejected_tokens": [0, 4, 0]})
    found = TASK.tally(None, None, answers)
    assert tally.score(found, metrics.METRICS["accuracy"]) == pytest.approx(2 / 3)
    assert tally.score(found, metrics.METRICS["likelihood"]) == pytest.approx(math.exp(-10 / 5), abs=1e-6)
    facts = metrics.facts(answers)
    assert (facts["chosen_tokens"], facts["rejected_tokens"]) == (2.5, 4)
    assert facts["accuracy_where_chosen_is_shorter"] is None
    contest: Any = SimpleNamespace(rows=frozen(3), challenger=answers, champion=None, base=None)
    wrong, right, _ = report.examples(declared(base), contest)
    assert [(row[1] == "", row[2] == "", row[3]) for row in right.rows] == [
        (True, False, "+2.00"),
        (False, True, "+1.00"),
    ]
    assert [row[3] for row in wrong.rows] == ["-1.00"]
    assert list(dict(report.figures(declared(base), contest))) == ["margins"]


def test_rows_as_the_model_sees_them_are_those_that_there_are(base: Path, tmp_path: Path) -> None:
    said, table = declared(base), frozen(6)
    _, tokenizer = TASK.for_training(said, tmp_path)
    looked = TASK.mask(said, tokenizer, table)
    assert len(looked.lengths) == 6
    assert (list(looked.untaught), looked.wrong) == ([], None)
    shown = TASK.lesson(said, tokenizer, table, table).files["trained_on.txt"]
    assert [part.split(" rows")[0] for part in shown.split(" answers\n\n")[1:]] == ["2", "4"]
