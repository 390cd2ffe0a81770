"""Pairs of answers: how they are read, what is learned of them, and how well a model tells them apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from regraft import recipe, tally, tasks
from regraft.causal import Causal, answering
from regraft.errors import BadInput
from regraft.gate import Gate, Own
from regraft.tasks.preferences import metrics, model, report
from regraft.tasks.preferences.lesson import loss, scored
from regraft.tasks.preferences.recipe import Data, Training
from regraft.tasks.preferences.rows import counts, rows
from tests import llamas
from tests.worlds import preferences as world

TASK = tasks.of("preferences")
DATA = Data.model_validate({"source": "x", "columns": {"prompt": "p", "chosen": "c", "rejected": "r"}})
DEEP = json.loads("[" * 300 + "]" * 300)
USER, SAID = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}


def read(prompt: Any, chosen: Any, rejected: Any) -> tuple[dict[str, Any], str | None]:
    """The frozen row of one pair, and what is wrong with it."""
    sides = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    texts = {key: of if isinstance(of, str | None) else json.dumps(of) for key, of in sides.items()}
    found = rows({key: pa.array([of], pa.string()) for key, of in texts.items()}, DATA)
    problem = next((reason for reason, applies in found.problems if applies[0]), None)
    frozen = {"text": found.text[0].as_py(), **{key: of[0].as_py() for key, of in found.target.items()}}
    return {key: None if of is None else json.loads(of) for key, of in frozen.items() if not problem}, problem


def test_one_pair_is_one_row_in_every_format() -> None:
    plain = read("Where is it?", "Here.", "Why?")
    assert plain == ({"text": [USER], "chosen": SAID, "rejected": {**SAID, "content": "Why?"}}, None)
    assert read([USER], [SAID], [{**SAID, "content": "Why?"}]) == plain
    assert read([USER], [USER, SAID], [USER, {**SAID, "content": "Why?"}]) == plain, (
        "trl's format of whole conversations"
    )
    assert read([{"from": "human", "value": "Where is it?"}], "Here.", "Why?") == plain


def test_an_answer_may_be_json_that_is_no_message() -> None:
    assert read("Sort 2, 1.", "[1, 2]", '[{"number": 1}]')[0]["rejected"]["content"] == '[{"number": 1}]'


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "problem"),
    [
        ("a", None, "x", "no chosen answer"),
        ("a", " ", "x", "no chosen answer"),
        ("a", "x", None, "no rejected answer"),
        ("a", "x", "[]", "no rejected answer"),
        ("a", "[ ]", "x", "no chosen answer"),
        ([{"role": "\ud800", "content": "x"}], "x", "y", "unknown role"),
        ([{**USER, "meta": DEEP}], [{**USER, "meta": DEEP}, SAID], "y", "damaged messages"),
        ("a", "x  y", "x y ", "both answers are the same"),
        ([USER], [{**USER, "content": "Who?"}, SAID], "x", "damaged messages"),
        ([{"role": "user", "content": 3}], "x", "y", "damaged messages"),
        ([{"role": "owner", "content": "x"}], "x", "y", "unknown role"),
        ([USER, SAID], "x", "y", "turns out of order"),
        ([USER], [{**SAID, "content": " "}], "y", "empty turn"),
        ([USER], [USER], "y", "turns out of order"),
        ([USER, SAID, {"role": "tool", "content": "1"}], "x", "y", "result without a call"),
    ],
)
def test_what_is_no_pair_is_set_aside_with_its_reason(prompt: Any, chosen: Any, rejected: Any, problem: str) -> None:
    assert read(prompt, chosen, rejected)[1] == problem


def test_pairs_are_counted_by_which_answer_is_longer() -> None:
    lengths = [(4, 2), (3, 2), (2, 2), (2, 3), (2, 4)]
    sides = ([json.dumps({**SAID, "content": "a " * pair[side]}) for pair in lengths] for side in range(2))
    target = dict(zip(("chosen", "rejected"), (pa.array(side) for side in sides), strict=True))
    assert list(counts(target, DATA).values()) == [1] * 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


def declared(base: Path, **more: str) -> Any:
    text = world.RECIPE.format(data="nowhere", base=base, epochs=1, more="")
    for before, after in more.items():
        assert before in text
        text = text.replace(before, after)
    return recipe.parse(text)


def frozen(count: int = 12) -> Any:
    made = world.rows(count)
    found = rows({key: pa.array([row[key] for row in made]) for key in ("prompt", "chosen", "rejected")}, DATA)
    return pa.table({"text": found.text, **found.target})


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Causal:
    """A model whose adapter says something other than its base."""

    made, tokenizer = TASK.for_training(declared(base), tmp_path_factory.mktemp("model"))
    llamas.teach(made, std=0.2)
    return Causal(made.eval(), tokenizer, 64, 12)


def test_only_the_answer_that_is_judged_counts(adapted: Causal) -> None:
    talk = [USER, SAID, {"role": "user", "content": "a great film"}]
    row = pa.table({"text": [json.dumps(talk)], "chosen": [json.dumps({**SAID, "content": "good"})]})
    row = row.append_column("rejected", pa.array([json.dumps({**SAID, "content": "bad plot"})]))
    (pair,) = model.encoded(adapted.tokenizer, None, row, max_length=200, max_tokens=12)
    for side, right in zip(pair, ("good<|im_end|>", "bad plot<|im_end|>"), strict=True):
        kept = [token for token, of in zip(side.ids, side.trained, strict=True) if of]
        assert adapted.tokenizer.decode(kept) == right


def test_a_pair_whose_answers_are_cut_away_counts_nothing(adapted: Causal) -> None:
    """The turn before them is none of them."""
    call = {**SAID, "tool_calls": [{"function": {"name": "find"}}]}
    talk = [USER, call, *[{"role": "tool", "content": "x " * 300}] * 2]
    row = pa.table({"text": [json.dumps(talk)], "chosen": [json.dumps(SAID)], "rejected": [json.dumps(SAID)]})
    for side in model.encoded(adapted.tokenizer, None, row, max_length=64, max_tokens=12)[0]:
        assert (len(side.ids), sum(side.trained)) == (64, 0)


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_the_loss_is_the_papers_whoever_shares_the_batch(kind: Any, adapted: Causal, base: Path) -> None:
    """Against the formula, from log-likelihoods that are asked a row at a time."""
    import torch

    said = declared(base, **{"max_length: 64": f"max_length: 64, loss: {kind}, beta: 0.3"})
    table = frozen(6)
    made = TASK.lesson(said, adapted.tokenizer, table, table)
    made = made.knowing(adapted.model)
    items = made.train(list(range(6)))
    batch = made.collator([items[number] for number in range(6)])
    labels = batch.pop("labels")
    with torch.no_grad():
        found = float(made.loss(adapted.model(**batch), labels))
    answers = [TASK.answers(adapted, table.slice(number, 1)).to_pylist()[0] for number in range(6)]
    gaps = [a["chosen"] - a["base_chosen"] - a["rejected"] + a["base_rejected"] for a in answers]
    each = {"dpo": [math.log1p(math.exp(-0.3 * gap)) for gap in gaps], "ipo": [(gap - 1 / 0.6) ** 2 for gap in gaps]}
    assert max(map(abs, gaps)) > 0.1, "the adapter says something"
    assert found == pytest.approx(np.mean(each[kind]), rel=1e-3)


def test_the_base_model_is_asked_once_and_without_the_adapter(
    adapted: Causal, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[int, bool]]()
    real = answering.of_references

    def of_references(model: Causal, rows: Any) -> Any:
        asked.append((len(rows), model.adapted))
        return real(model, rows)

    monkeypatch.setattr(answering, "of_references", of_references)
    made = TASK.lesson(declared(base), adapted.tokenizer, frozen(5), frozen(3)).knowing(adapted.model)
    for number in (0, 1, 0, 1):
        made.collator([made.train([0, 4])[number]])
    assert asked == [(10, False), (6, False)]
    assert made.knowing is None


def test_pairs_of_which_the_reference_is_not_known_cannot_be_trained_on(adapted: Causal, base: Path) -> None:
    made = TASK.lesson(declared(base), adapted.tokenizer, frozen(5), frozen(3))
    with pytest.raises(IndexError):
        made.train([0])[0]


def test_accumulated_steps_add_up_to_the_mean_of_all_pairs() -> None:
    import torch

    logits = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = {"tokens": torch.ones(8, 3, dtype=torch.int64), "reference": torch.zeros(4, 2)}
    whole = loss(Training(beta=1), (1, 1), SimpleNamespace(logits=logits), labels)
    halves = [([0, 1, 4, 5], [0, 1]), ([2, 3, 6, 7], [2, 3])]
    parts = [
        loss(
            Training(beta=1, gradient_accumulation=2),
            (1, 1),
            SimpleNamespace(logits=logits[rows]),
            {"tokens": labels["tokens"][rows], "reference": labels["reference"][pairs]},
        )
        for rows, pairs in halves
    ]
    assert float(sum(parts)) == pytest.approx(float(whole))


def test_a_score_grows_where_all_pairs_are_right_already() -> None:
    def score(margin: float) -> dict[str, float]:
        rows = np.array([[margin, 0.0, -4.0, 2.0]] * 3)
        return scored(Training(), SimpleNamespace(predictions=rows))

    assert score(0)["accuracy"] == score(0)["agreement"] == 0.5
    assert score(1)["accuracy"] == score(9)["accuracy"] == 1
    assert score(1)["agreement"] < score(9)["agreement"] == pytest.approx(1 / (1 + math.exp(-0.9)))
    assert score(1)["likelihood"] == pytest.approx(math.exp(-2))


def test_a_base_model_prefers_nothing(adapted: Causal, base: Path) -> None:
    said, table = declared(base), frozen()
    plain = TASK.answers(TASK.untrained(adapted), table)
    found = TASK.answers(adapted, table)
    assert tally.score(TASK.tally(said, table, plain), metrics.METRICS["accuracy"]) == 0.5
    assert plain["chosen"].to_pylist() == pytest.approx(found["base_chosen"].to_pylist(), rel=1e-5)
    assert metrics.margins(found).any()


def answered(*pairs: tuple[float, float], base: float = -10.0, tokens: int = 5) -> Any:
    one, other = zip(*pairs, strict=True)
    size = len(pairs)
    return pa.table(
        {
            "chosen": list(one),
            "rejected": list(other),
            "base_chosen": [base] * size,
            "base_rejected": [base] * size,
            "chosen_tokens": [tokens] * size,
            "rejected_tokens": [tokens + at % 2 for at in range(size)],
        }
    )


def test_accuracy_is_the_share_of_pairs_whose_chosen_answer_gained_more() -> None:
    answers = answered((-9.0, -11.0), (-12.0, -15.0), (-9.0, -8.0), (-10.0, -10.0))
    found = TASK.tally(None, None, answers)
    scores = {name: tally.score(found, metric) for name, metric in metrics.METRICS.items()}
    assert scores == pytest.approx({"accuracy": 0.625, "likelihood": math.exp(-40 / 20)}, abs=1e-6)
    facts = metrics.facts(answers)
    assert facts["reward_margin"] == (2 + 3 - 1 + 0) / 4
    assert facts["divergence_per_token"] == 0
    assert facts["accuracy_where_chosen_is_shorter"] == 0.75, "the second and the fourth pair"


def gates(challenger: Any, champion: Any = None, **more: Any) -> dict[str, Gate]:
    text = world.RECIPE.format(data="nowhere", base="nowhere", epochs=1, more="")
    own = metrics.own(
        recipe.parse(text.replace("min_rows: 20", f"min_rows: 20, {json.dumps(more)[1:-1]}")),
        None,
        challenger,
        champion,
    )
    return {gate.name.rpartition(" the ")[2]: gate for gate in own.gates}


def test_chosen_answers_must_not_become_less_probable() -> None:
    """A model can be right on each pair by forgetting rejected answers faster than chosen ones."""
    forgets = answered(*[(-12.0 - at % 3, -30.0) for at in range(90)])
    found = gates(forgets)["base model"]
    assert (found.passed, found.undecided) == (False, False)
    assert found.sentence.startswith(
        "the likelihood of a token of chosen answers is -45.1% against the base model's (95 %"
    )
    assert gates(forgets, likelihood_loss=0.6)["base model"].passed
    few = answered(*[(-10.0 - at, -30.0) for at in (-2, 3)])
    assert gates(few)["base model"].undecided
    keeps = answered(*[(-10.0 + at % 3, -30.0) for at in range(90)])
    assert gates(keeps)["base model"].passed
    assert not gates(keeps, answered(*[(-2.0, -30.0)] * 90))["champion"].passed, "better than its base, worse than that"
    assert not gates(forgets, likelihood_loss=None)


def test_likelihoods_that_are_no_numbers_are_counted() -> None:
    assert metrics.broken(answered((math.nan, -1.0), (-1.0, -math.inf), (-1.0, -1.0))) == 2


def test_no_rows_have_no_answers_no_facts_and_no_gates(adapted: Causal, base: Path) -> None:
    none = TASK.answers(adapted, frozen().slice(0, 0))
    assert none.num_rows == 0
    assert metrics.own(declared(base), None, none, None) == Own()


def test_an_answer_that_may_be_as_long_as_all_is_one_clear_error(adapted: Causal, base: Path) -> None:
    with pytest.raises(BadInput, match="leave no room for a question") as error:
        TASK.lesson(declared(base, **{"max_length: 64": "max_length: 16"}), adapted.tokenizer, frozen(2), frozen(2))
    assert error.value.where == "training.max_length"


def test_both_answers_are_shown_as_the_model_sees_them(adapted: Causal, base: Path) -> None:
    shown = TASK.lesson(declared(base), adapted.tokenizer, frozen(5), frozen(2)).files["trained_on.txt"]
    one, other = shown.split("Rejected answers")
    assert one.startswith("Chosen answers\n\n5 rows, ")
    assert one.count("⟦") == other.count("⟦") == 4, "in the sentence that explains it, and in three rows"


@pytest.mark.parametrize("champion", [False, True])
def test_a_report_shows_the_pairs_of_which_a_model_is_surest_wrong_and_right(champion: bool) -> None:
    answers = answered((-9.0, -11.0), (-12.0, -15.0), (-9.0, -8.0), (-10.0, -10.0))
    contest: Any = SimpleNamespace(
        rows=frozen(4), challenger=answers, champion=answers if champion else None, base=None if champion else answers
    )
    wrong, right, odd = report.examples(declared(Path("nowhere")), contest)
    assert [row[3] for row in wrong.rows] == ["-1.00"]
    assert [row[3] for row in right.rows] == ["+3.00", "+2.00"]
    assert len(right.columns) == len(right.rows[0]) == 4 + champion
    assert (odd.count, "base model" in odd.title) == (0, True)
    assert right.rows[1][0] == f"user: {world.rows(4)[0]['prompt']}"
    drawn = dict(report.figures(declared(Path("nowhere")), contest))
    assert list(drawn) == ["margins", "lengths"]
    kept = report.predictions(declared(Path("nowhere")), contest)
    assert list(kept["challenger.chosen_reward"]) == [1, -2, 1, 0]
    assert ("champion.chosen_reward" in kept) == champion
