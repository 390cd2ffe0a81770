"""Entities: what rows are read, how tokens and spans become each other, what counts as right, what a report shows."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from regraft import tally
from regraft.exchange import Seen
from regraft.tasks.token_classification import metrics, program, report, served
from regraft.tasks.token_classification.lesson import tagged
from regraft.tasks.token_classification.model import table
from regraft.tasks.token_classification.recipe import Columns, Data, tags
from regraft.tasks.token_classification.rows import canonical, checks, counts, rows, spans

LABELS = ("PER", "ORG")
TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def data(**columns: str) -> Data:
    return Data.model_validate(
        {"source": "nowhere", "labels": LABELS, "columns": columns or {"text": "text", "entities": "entities"}}
    )


def entity(start: int, end: int, label: str = "PER") -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def read(text: str | None, entities: Any) -> tuple[str, str | None]:
    """The reason why a row is set aside, and its frozen entities where there is none."""
    value = entities if entities is None or isinstance(entities, str) else json.dumps(entities)
    source = pa.table({"text": pa.array([text], pa.string()), "entities": pa.array([value], pa.string())})
    return first(rows(source, data()))


def read_words(tokens: Any, named: Any) -> tuple[str, str | None, str | None]:
    values = {"tokens": tokens, "tags": named}
    source = pa.table(
        {key: pa.array([None if value is None else json.dumps(value)], pa.string()) for key, value in values.items()}
    )
    found = rows(source, data(tokens="words", tags="bio"))
    return *first(found), found.text[0].as_py()


def first(found: Any) -> tuple[str, str | None]:
    reason = next((reason for reason, applies in found.problems if applies[0]), "")
    return reason, None if reason else found.target["entities"][0].as_py()


@pytest.mark.parametrize(
    "columns",
    [{"text": "t"}, {"text": "t", "tags": "b"}, {"text": "t", "entities": "e", "tokens": "w", "tags": "b"}, {}],
)
def test_columns_are_one_pair(columns: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either text and entities, or tokens and tags"):
        Columns.model_validate(columns)


def test_entities_are_frozen_in_one_form_whatever_theirs_was() -> None:
    given = [{"label": "ORG", "end": 9, "start": 4, "id": 7}, entity(0, 3)]
    frozen = '[{"start":0,"end":3,"label":"PER"},{"start":4,"end":9,"label":"ORG"}]'
    assert read("Ada Bé Co", given) == ("", frozen)
    assert read("Ada Bé Co", json.dumps(given, indent=1)) == ("", frozen)


def test_an_empty_list_is_an_answer_and_no_value_is_none() -> None:
    assert read("nobody", []) == ("", "[]")
    assert [read("nobody", value)[0] for value in (None, "", " ", "null")] == ["no entities"] * 4


@pytest.mark.parametrize(
    ("entities", "reason"),
    [
        ("[{", "damaged entities"),
        ({"start": 0}, "damaged entities"),
        ([[0, 3, "PER"]], "damaged entities"),
        ([{"start": "0", "end": 3, "label": "PER"}], "damaged entities"),
        ([{"start": True, "end": 3, "label": "PER"}], "damaged entities"),
        ("[" * 100_000, "damaged entities"),
        ([entity(-1, 3)], "span out of range"),
        ([entity(0, 4)], "span out of range"),
        ([entity(2, 2)], "span out of range"),
        ([entity(3, 1)], "span out of range"),
        ([entity(0, 2), entity(1, 3, "ORG")], "overlapping spans"),
        ([entity(0, 3), entity(0, 3)], "overlapping spans"),
        ([entity(0, 2, "LOC")], "unknown label"),
    ],
)
def test_a_span_that_cannot_be_has_a_reason(entities: Any, reason: str) -> None:
    assert read("Ada", entities) == (reason, None)


def test_spans_may_touch() -> None:
    assert read("Ada", [entity(0, 1), entity(1, 3, "ORG")])[0] == ""


def test_offsets_count_code_points() -> None:
    assert read("🜁é", [entity(1, 2)])[0] == ""
    assert read("🜁é", [entity(1, 3)])[0] == "span out of range"


def test_an_unknown_label_is_named_and_half_a_character_is_none() -> None:
    source = pa.table({"text": ["Ada"], "entities": ['[{"start":0,"end":1,"label":"\\ud800"}]']})
    assert rows(source, data()).unknown["unknown label"].to_pylist() == ["?"]


def test_words_and_tags_become_a_text_and_spans() -> None:
    words, named = ["Ada", "King", "met", "Acme", "Bo"], ["B-PER", "I-PER", "O", "B-ORG", "B-PER"]
    reason, frozen, text = read_words(words, named)
    assert (reason, text) == ("", "Ada King met Acme Bo")
    assert spans(frozen or "") == [(0, 8, "PER"), (13, 17, "ORG"), (18, 20, "PER")]


@pytest.mark.parametrize(
    ("tokens", "named", "reason"),
    [
        (["Ada", "King"], ["B-PER"], "damaged entities"),
        (["Ada", "King"], ["O", "I-PER"], "damaged entities"),
        (["Ada", "King"], ["B-PER", "I-ORG"], "damaged entities"),
        (["Ada", "King"], ["B-PER", "X-PER"], "damaged entities"),
        (["Ada", "King"], ["B-PER", "I-"], "damaged entities"),
        (["Ada", "King"], [1, 2], "damaged entities"),
        ("Ada King", ["O"], "damaged entities"),
        (["Ada", "King"], None, "no entities"),
        (["Ada", ""], ["O", "B-PER"], "span out of range"),
        (["Ada", "King"], ["B-LOC", "O"], "unknown label"),
    ],
)
def test_tags_that_cannot_be_have_a_reason(tokens: Any, named: Any, reason: str) -> None:
    assert read_words(tokens, named)[0] == reason


def test_entities_are_counted_by_label_though_a_label_holds_json() -> None:
    odd = 'A","label":"PER"}'
    declared = Data.model_validate({**data().model_dump(), "labels": ("PER", "ORG", odd)})
    frozen = [canonical([(0, 1, "PER"), (1, 2, odd)]), "[]", canonical([(0, 1, "PER")])]
    assert counts(pa.table({"entities": frozen}), declared) == {"PER": 2, "ORG": 0, odd: 1}


def test_the_contract_sees_a_rare_label_an_empty_split_and_drift() -> None:
    of_split = {"train": {"PER": 99, "ORG": 0}, "dev": {"PER": 1, "ORG": 0}, "holdout": {"PER": 0, "ORG": 0}}
    totals, sizes = {"PER": 100, "ORG": 0}, {"train": 50, "dev": 5, "holdout": 5}
    seen = Seen(rows=sizes, counts=of_split, totals=totals, before={"PER": 0, "ORG": 9})
    found = {check.name: check for check in checks(data(), seen)}
    assert {name: check.observed for name, check in found.items()} == {"labels": 0, "splits": 0, "label_drift": 1}
    assert found["labels"].sentence == ("the label 'ORG' has 0 of 100 entities (0.0%), at least 1.0% are needed")
    assert found["splits"].sentence.startswith("holdout holds 0 entities, at least 1 is needed (train 99 in 50 rows")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("B-PER I-PER O B-ORG", [(0, 3, "PER"), (6, 7, "ORG")]),
        ("B-PER B-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("O I-PER I-PER", [(2, 5, "PER")]),
        ("B-PER I-ORG I-ORG", [(0, 1, "PER"), (2, 5, "ORG")]),
        ("O O", []),
        ("", []),
    ],
)
def test_tags_become_entities_as_in_conlleval(named: str, expected: list[Any]) -> None:
    tokens = [(2 * i, 2 * i + 1, tag, 0.5, 0.1) for i, tag in enumerate(named.split())]
    found = program.entities(tokens)
    assert [(one["start"], one["end"], one["label"]) for one in found] == expected


def test_a_span_is_as_sure_as_its_tokens_on_average() -> None:
    tokens = [(0, 1, "B-PER", 0.5, 0.1), (1, 2, "I-PER", 0.8, 0.7), (2, 3, "O", 0.1, 0.0)]
    assert program.entities(tokens) == [{"start": 0, "end": 2, "label": "PER", "score": 0.65}]


def test_white_space_special_tokens_and_shared_characters_are_nobodys() -> None:
    text = "Hi 🜁 x"
    offsets = [(0, 0), (0, 2), (2, 4), (3, 4), (3, 5), (4, 6), (0, 0)]
    found = program.extents(text, offsets, [1, 0, 0, 0, 0, 0, 1])
    assert found == [(1, 0, 2), (2, 3, 4), (5, 5, 6)]


def test_tags_of_tokens_and_entities_of_tags_are_inverse() -> None:
    chance = random.Random(1)
    for _ in range(300):
        parts = [(at, at + chance.randint(1, 3)) for at in range(0, 40, 4)]
        found, at = [], 0
        while at < len(parts):
            size = chance.randint(1, 3)
            if chance.random() < 0.5 and at + size <= len(parts):
                found.append((parts[at][0], parts[at + size - 1][1], chance.choice(LABELS)))
            at += size
        named = [(*part, tag, 1.0, 1.0) for part, tag in zip(parts, tagged(parts, found), strict=True)]
        assert [(one["start"], one["end"], one["label"]) for one in program.entities(named)] == found


def test_a_token_that_shares_a_character_with_an_entity_is_in_it() -> None:
    assert tagged([(0, 2), (2, 6), (6, 7)], [(1, 3, "PER"), (6, 7, "ORG")]) == ["B-PER", "I-PER", "B-ORG"]


def answered(*texts: list[Any]) -> Any:
    """A table of answers, each given by its tokens."""
    return table(
        [program.written(program.entities(tokens)) for tokens in texts], [program.written(tokens) for tokens in texts]
    )


def test_a_near_tie_that_falls_the_other_way_is_near() -> None:
    one = answered([(0, 1, "B-PER", 0.49, 0.01), (2, 3, "O", 0.9, 0.8)])
    near = answered([(0, 1, "O", 0.48, 0.005), (2, 3, "O", 0.93, 0.86)])
    far = answered([(0, 1, "O", 0.9, 0.8), (2, 3, "O", 0.9, 0.8)])
    assert served.distance(one, near) == pytest.approx(0.03, abs=1e-6)
    assert served.distance(one, far) == pytest.approx(0.41, abs=1e-6)
    assert served.distance(one, answered([(0, 1, "O", 0.9, 0.8)])) == 1
    assert served.distance(answered([]), answered([])) == 0
    kept = pa.Table.from_pylist(one.to_pylist())  # as deploy keeps it: numbers of other types
    assert served.distance(one, kept) < 1e-6


def test_the_distance_is_never_more_than_a_probability_differs() -> None:
    chance = np.random.default_rng(3)
    for _ in range(200):
        logits = chance.normal(size=(2, 4, len(TAGS)))
        logits[1] = logits[0] + chance.normal(scale=0.3, size=logits[0].shape)
        parts = [(i, i + 1) for i in range(4)]
        one, other = (answered(program.tokens(TAGS, parts, part)) for part in logits)
        chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        assert served.distance(one, other) <= abs(chances[0] - chances[1]).max() + 2e-6


class Declared:
    """What a metric reads of a recipe."""

    data = data()


def said(answers: Any) -> served.Served:
    tokens = [[list(token.values()) for token in found] for found in answers["tokens"].to_pylist()]
    return served.Served(answers["entities"].to_pylist(), [program.written(found) for found in tokens])


def test_a_served_answer_is_what_its_tokens_make() -> None:
    recipe: Any = Declared()
    offline = answered([(0, 1, "B-PER", 0.5, 0.25), (1, 2, "O", 0.75, 0.5)])
    good = said(offline)
    assert served.flaw(recipe, good, offline) is None
    assert served.numbers(good).equals(offline)
    (tokens,) = good.tokens
    wrong = {
        "1 answers to 2 texts": (good, pa.concat_tables([offline, offline])),
        "is not of the form": (good._replace(entities=["["]), offline),
        "other tokens than offline": (good, answered([(0, 2, "B-PER", 0.5, 0.25)])),
        "has tags or probabilities": (good._replace(tokens=[tokens.replace("B-PER", "B-LOC")]), offline),
        "tags or probabilities": (good._replace(tokens=[tokens.replace("0.75", "NaN")]), offline),
        "not those that its tokens make": (good._replace(entities=["[]"]), offline),
    }
    for sentence, (given, expected) in wrong.items():
        assert sentence in (served.flaw(recipe, given, expected) or "")


def scores(true: list[list[Any]], given: list[list[Any]], labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    found = metrics.counted(labels, *([canonical(row) for row in side] for side in (true, given)))
    return {name: tally.score(found, metric) for name, metric in metrics.METRICS.items()}


def test_only_an_exact_span_with_its_label_is_right() -> None:
    true = [[(0, 3, "PER"), (5, 9, "ORG")], [], [(0, 2, "PER")]]
    given = [[(0, 3, "PER"), (5, 8, "ORG")], [(1, 2, "PER")], [(0, 2, "ORG")]]
    # hits 1 of 4 given and 3 true; PER 1 of 2 and 2, ORG 0 of 2 and 1
    expected = {"precision": 1 / 4, "recall": 1 / 3, "span_f1": 2 / 7, "span_f1_macro": (2 / 4 + 0) / 2}
    assert scores(true, given) == pytest.approx(expected, abs=1e-6)
    assert set(scores([[]], [[]]).values()) == {0.0}


def test_the_sums_are_those_of_a_plain_count() -> None:
    chance = random.Random(5)
    some = [[(2 * i, 2 * i + 1, chance.choice(LABELS)) for i in range(6) if chance.random() < 0.5] for _ in range(400)]
    true, given = some[:200], some[200:]
    pairs = list(zip(true, given, strict=True))
    hits = sum(span in answer for one, answer in pairs for span in one)
    precision, recall = hits / sum(map(len, given)), hits / sum(map(len, true))
    found = scores(true, given)
    assert found["precision"] == pytest.approx(precision, abs=1e-6)
    assert found["recall"] == pytest.approx(recall, abs=1e-6)
    assert found["span_f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


def test_answers_that_are_no_numbers_are_counted() -> None:
    bad = (0, 1, "O", float("nan"), 0.1)
    assert metrics.broken(answered([bad, bad], [], [(0, 1, "O", 0.5, 0.1)], [bad])) == 2


def test_a_report_marks_entities_and_names_mistakes() -> None:
    text = "Ada King met Acme."
    assert report.marked(text, [(0, 8, "PER"), (13, 17, "ORG")]) == "[Ada King PER] met [Acme ORG]."
    true = canonical([(0, 8, "PER"), (13, 17, "ORG")])
    given = [{**entity(0, 3), "score": 0.934}, {**entity(13, 17, "ORG"), "score": 0.9}]
    assert report.mistakes(text, true, json.dumps(given)) == "missed [Ada King PER]; gave [Ada PER] 93%"
    assert report._kinds([true], [json.dumps(given)]) == [0, 1, 0, 0]


def test_the_tags_are_o_and_two_of_each_label() -> None:
    recipe: Any = Declared()
    assert tags(recipe) == TAGS
