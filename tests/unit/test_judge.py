"""A judge is believed as far as people agree with it: its bias is known from their sample, and taken out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from regraft import recipe, settings, tally, tasks
from regraft.causal import judge as judging
from regraft.errors import BadInput, RegraftError, Temporary
from regraft.memo import Memo
from regraft.store import Store
from tests.judges import Judge, at_work
from tests.worlds import of

ERRS = {"first": (0.7, 0.2, 0.1), "tie": (0.25, 0.5, 0.25), "second": (0.1, 0.2, 0.7)}
"""Of what people prefer, how often a judge says first, tie and second."""


def drawn(chance: np.random.Generator, truth: tuple[float, float, float], rows: int) -> Any:
    """Pairs by what people say and what the judge does, shape (3, 3)."""
    people = chance.multinomial(rows, truth)
    return np.array([chance.multinomial(count, errs) for count, errs in zip(people, ERRS.values(), strict=True)])


def test_the_corrected_win_rate_holds_the_truth_as_often_as_it_says() -> None:
    chance, truth, held = np.random.default_rng(7), (0.6, 0.2, 0.2), []
    for _ in range(60):
        judged, sample = drawn(chance, truth, 400).sum(axis=0), drawn(chance, (0.4, 0.3, 0.3), 150)
        found = tally.win_rate(judged, sample, confidence=0.9)
        assert found.low < found.point < found.high
        held.append(found.low <= 0.7 <= found.high)
    assert 0.8 <= np.mean(held) <= 0.98


def test_the_correction_is_that_of_the_whole_matrix() -> None:
    """Wins less losses, by inverting what the judge makes of each of the three."""
    matrix = np.array(list(ERRS.values()))
    sample = np.rint(matrix * 1000).astype(np.int64)
    judged = np.array([420, 330, 250])
    first, tie, _ = np.linalg.solve(matrix.T, judged / 1000)
    found = tally.win_rate(judged, sample, confidence=0.95)
    assert found.point == pytest.approx(first + tie / 2, abs=1e-6)


def test_a_judge_of_chance_leaves_all_open_and_one_without_fault_changes_nothing() -> None:
    judged = np.array([60, 10, 30])
    blind = tally.win_rate(judged, np.full((3, 3), 20), confidence=0.95)
    assert (blind.low, blind.high) == (0, 1)
    assert tally.win_rate(judged, np.diag([50, 20, 50]), confidence=0.95).point == 0.65


@pytest.mark.parametrize(
    ("said", "kappa"),
    [
        ([[30, 0, 0], [0, 10, 0], [0, 0, 30]], 1),
        ([[70, 0, 0], [0, 0, 0], [0, 0, 0]], 1),  # people put the better answer first: of no account
        ([[9, 9, 9], [9, 9, 9], [9, 9, 9]], 0),
        ([[0, 0, 0], [0, 9, 0], [0, 0, 0]], 0),
    ],
)
def test_kappa_of_a_judge_that_agrees_always_or_by_chance(said: list[list[int]], kappa: float) -> None:
    assert tally.kappa(np.array(said)) == kappa


def test_kappa_is_cohens() -> None:
    """As scikit-learn's cohen_kappa_score has it, of all pairs both ways round."""
    assert tally.kappa(np.array([[20, 5, 3], [4, 10, 6], [2, 1, 20]])) == 0.550701


def declared(judge: str = "model: m, sample: s.jsonl") -> Any:
    text = of("chat").RECIPE.format(data="x", base="y", epochs=1, more="")
    return recipe.parse(text.replace("min_rows: 20, ", f"min_rows: 20, judge: {{{judge}}}, "))


@pytest.mark.parametrize(
    ("judge", "complaint"),
    [
        ("model: m, sample: s, prompt: 'Which is better, {first} or {second}?'", r"does not have \{asked\}"),
        ("model: m, sample: s, prompt: '{asked} {first} {first} {second}'", r"does not have \{first\} in one place"),
        ("model: m, sample: 's3://k:pw@b/x'", "secrets come from"),
        ("model: m", "sample"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_an_error_of_the_recipe(judge: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        declared(judge)


def test_its_sample_is_a_location_that_a_recipe_names() -> None:
    assert recipe.locations(declared())["gates.judge.sample"] == "s.jsonl"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("A", "first"),
        ("b\n", "second"),
        ("[[B]]", "second"),
        ("A is wrong about the year, B is not.\n\nBetter: **B**.", "second"),
        ("**Tie**", "tie"),
        ("A is better", None),
        ("", None),
        ("...", None),
    ],
)
def test_the_last_word_of_a_reply_counts(reply: str, says: str | None) -> None:
    assert judging.verdict(reply) == says


def test_a_text_with_braces_stays_as_it_is() -> None:
    assert judging.filled("{asked}|{first}|{second}", "{second}", "{first}\\1", "x") == "{second}|{first}\\1|x"


# With a server that plays a judge.


def longer(asked: str, one: str, other: str) -> int:
    """What people prefer in these tests."""
    return (len(one) > len(other)) - (len(one) < len(other))


@pytest.fixture
def hired(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Judge]]:
    """Makes a judge and puts its address in the environment."""
    monkeypatch.setattr(judging, "BACKOFF_SECONDS", 0.01)
    running = []

    def hire(**biases: Any) -> Judge:
        running.append(at_work(Judge(better=longer, **biases)))
        judge = running[-1].__enter__()
        monkeypatch.setenv(settings.JUDGE, judge.url)
        return judge

    yield hire
    for each in running:
        each.__exit__(None, None, None)


def pairs(count: int, shares: tuple[float, float, float], *, seed: int) -> list[tuple[str, str, str]]:
    """What was asked and two answers, of which the first is better, as good or worse in these shares."""
    chance, made = random.Random(seed), []
    for number in range(count):
        one = chance.choices((5, 4, 3), shares)[0]
        made.append((f"{seed}: {number}", "a" * one, "b" * 4))
    return made


def judged(
    store: Path, rows: list[tuple[str, str, str]], people: list[tuple[str, str, str]], judge: str = ""
) -> tuple[Any, Any]:
    """The one gate, and answers that are worse."""
    memo = Memo(store=Store(str(store), "tiny"), kind="judged", code="regraft.contest", task="chat")
    preferred = [{1: "first", 0: "tie", -1: "second"}[longer(*pair)] for pair in people]
    columns = dict(zip(judging.PLACES, zip(*people, strict=True), strict=True))
    asked, ours, theirs = zip(*rows, strict=True)
    ((gate,), (worse,)) = judging.judged(
        declared(f"model: m, sample: s.jsonl{judge}"),
        asked,
        {"challenger": pa.table({"answer": ours}), "champion": pa.table({"answer": theirs})},
        pa.table({**columns, "preferred": preferred}),
        partial(memo.get, "pair"),
    )
    return gate, worse


def test_the_truth_is_recovered_from_a_judge_with_a_bias(tmp_path: Path, hired: Callable[..., Judge]) -> None:
    hired(wrong=0.1, first=0.2)
    rows, people = pairs(300, (0.7, 0.1, 0.2), seed=1), pairs(150, (0.4, 0.2, 0.4), seed=2)
    truth = sum(longer(*pair) + 1 for pair in rows) / 2 / len(rows)
    gate, worse = judged(tmp_path, rows, people)
    assert (gate.name, gate.passed) == ("judge", True), gate.sentence
    corrected, _, low, high, raw, _ = map(float, re.findall(r"[01]\.\d+", gate.sentence))
    assert low <= truth <= high, gate.sentence
    assert abs(corrected - truth) < abs(raw - truth) - 0.03, gate.sentence
    assert "turned with the order" in gate.sentence
    assert len(gate.sentence) < 300, "MLflow's pages cut it there"
    assert worse.columns == ("asked", "challenger", "champion")
    assert 0 < len(worse.rows) <= worse.count


def test_an_answer_is_kept_and_asked_for_once(tmp_path: Path, hired: Callable[..., Judge]) -> None:
    judge = hired(key="only-for-tests")
    with pytest.raises(BadInput, match="refuses who asks") as refused:
        judged(tmp_path, pairs(4, (1, 0, 0), seed=1), pairs(4, (1, 0, 0), seed=2))
    assert refused.value.where == settings.JUDGE_KEY
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.JUDGE_KEY, "only-for-tests")
        rows, people = pairs(20, (0.5, 0, 0.5), seed=1), pairs(40, (0.5, 0, 0.5), seed=2)
        judge.asked.clear()
        first, _ = judged(tmp_path, rows, people)
        assert len(judge.asked) == 2 * 60
        assert {(each["model"], each["temperature"]) for each in judge.asked} == {("m", 0)}
        assert judged(tmp_path, rows, people)[0] == first
        assert len(judge.asked) == 2 * 60
        assert "of 5 rows" in judged(tmp_path, rows, people, ", max_rows: 5")[0].sentence
        assert len(judge.asked) == 2 * 60
        other = json.dumps(judging.PROMPT.replace("more correct", "truer"))
        judged(tmp_path, rows, people, f", max_rows: 5, prompt: {other}")
        assert len(judge.asked) == 2 * (60 + 45), "another prompt is another judge"


@pytest.mark.parametrize(
    ("task", "text", "shown"),
    [
        ("chat", '[{"role": "user", "content": "Where is it?"}]', "# Request\nuser: Where is it?\n"),
        ("summarization", "A long text.", "# Request\nA long text.\n"),
    ],
)
def test_each_task_that_answers_in_words_shows_what_was_asked(
    task: str, text: str, shown: str, hired: Callable[..., Judge]
) -> None:
    judge, answer = hired(), pa.table({"answer": ["longer"]})
    said = of(task).RECIPE.format(data="x", base="y", epochs=1, more="")
    made = recipe.parse(said.replace("min_rows: 20, ", "min_rows: 20, judge: {model: m, sample: s}, "))
    people = pa.table({"asked": ["?"], "first": ["same"], "second": ["same"], "preferred": ["tie"]})
    sides = {"challenger": answer, "base model": pa.table({"answer": ["short"]})}

    def keep(inputs: Any, make: Callable[[], bytes], read: Callable[[bytes], Any]) -> Any:
        return read(make())

    (gate,), (worse,) = tasks.of(task).judged(made, pa.table({"text": [text]}), sides, people, keep)
    assert all(shown in each["messages"][0]["content"] for each in judge.asked)
    assert len(judge.asked) == 2, "answers that are equal are a tie, and not asked"
    assert (gate.name, worse.count) == ("judge (does not decide)", 0)


def test_what_is_kept_and_damaged_is_named(tmp_path: Path, hired: Callable[..., Judge]) -> None:
    hired()
    judged(tmp_path, pairs(1, (1, 0, 0), seed=1), pairs(1, (1, 0, 0), seed=2))
    store = Store(str(tmp_path), "tiny")
    for name in store.names("judged"):
        store.replace(f"judged/{name}", b'["A"]')
    with pytest.raises(BadInput, match="damaged"):
        judged(tmp_path, pairs(1, (1, 0, 0), seed=1), pairs(1, (1, 0, 0), seed=2))


@pytest.mark.parametrize(
    ("biases", "why"),
    [
        ({"wrong": 0.4}, "it agrees with people too little, 0.4 is needed"),
        ({"first": 1.0}, "it agrees with people too little"),
        ({"mute": 0.2}, "more than 10% of all are without a verdict"),
    ],
)
def test_a_judge_that_people_disagree_with_decides_nothing(
    biases: dict[str, float], why: str, tmp_path: Path, hired: Callable[..., Judge]
) -> None:
    hired(**biases)
    gate, _ = judged(tmp_path, pairs(60, (0, 0, 1), seed=1), pairs(60, (0.5, 0, 0.5), seed=2))
    assert (gate.name, gate.passed) == ("judge (does not decide)", True)
    assert f"decides nothing: {why}" in gate.sentence


def test_a_small_sample_says_too_little_of_a_judge(tmp_path: Path, hired: Callable[..., Judge]) -> None:
    hired()
    gate, _ = judged(tmp_path, pairs(60, (0, 0, 1), seed=1), pairs(12, (0.5, 0, 0.5), seed=2))
    assert gate.passed
    assert "in 12 pairs, 30 are needed" in gate.sentence


@pytest.mark.parametrize(
    ("shares", "state"), [((0.3, 0.4, 0.3), "passed"), ((0.3, 0.2, 0.5), "undecided"), ((0.1, 0.1, 0.8), "failed")]
)
def test_a_win_rate_that_falls_is_surely_too_low_or_not_decided(
    shares: tuple[float, float, float], state: str, tmp_path: Path, hired: Callable[..., Judge]
) -> None:
    hired(wrong=0.05)
    gate, _ = judged(tmp_path, pairs(150, shares, seed=3), pairs(60, (0.5, 0, 0.5), seed=2), ", margin: 0.15")
    found = "passed" if gate.passed else "undecided" if gate.undecided else "failed"
    assert found == state, gate.sentence


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        (503, Temporary, "answers with status 503"),
        (429, Temporary, "answers with status 429"),
        (404, BadInput, "no such model: m"),
        (302, BadInput, "does not answer as OpenAI's"),
    ],
)
def test_a_judge_that_is_away_is_asked_again_later_and_one_that_is_none_is_named(
    status: int, error: type[RegraftError], what: str, tmp_path: Path, hired: Callable[..., Judge]
) -> None:
    hired(status=status)
    with pytest.raises(error, match=what):
        judged(tmp_path, pairs(2, (1, 0, 0), seed=1), pairs(2, (1, 0, 0), seed=2))


def test_an_address_at_which_nobody_listens_is_temporary(
    tmp_path: Path, hired: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    hired()
    monkeypatch.setenv(settings.JUDGE, "http://127.0.0.1:9/v1")
    with pytest.raises(Temporary, match=r"the judge at http://127.0.0.1:9/v1 does not answer"):
        judged(tmp_path, pairs(2, (1, 0, 0), seed=1), pairs(2, (1, 0, 0), seed=2))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"preferred": "A"}, "row 2 prefers 'A', expected first, second or tie"),
        ({"preferred": None}, "row 2 prefers 'None', expected"),
        ({"first": None}, "row 2 has no first"),
    ],
)
def test_a_row_of_the_sample_that_says_nothing_is_named(row: dict[str, Any], complaint: str) -> None:
    good = {"asked": "x", "first": "a", "second": "b", "preferred": "tie"}
    people = pa.Table.from_pylist([good, {**good, **row}])
    with pytest.raises(BadInput, match=complaint):
        judging._preferred(declared().gates.judge, people)


def test_an_address_that_is_none_is_found_before_any_work() -> None:
    with pytest.raises(BadInput, match="does not begin with http"):
        settings.check({settings.JUDGE: "judge.example"})
    with pytest.raises(BadInput, match="no header takes") as raised:
        settings.check({settings.JUDGE_KEY: "two words"})
    assert "two words" not in str(raised.value)
    assert settings.judge({settings.JUDGE: "https://judge/v1/"}) == ("https://judge/v1", {})
    assert settings.judge({settings.JUDGE: " "}) is None
