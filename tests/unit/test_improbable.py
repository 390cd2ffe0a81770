"""Rows whose reference a model finds far less probable than those of others are listed for people to look at."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from regraft.causal import showing

CELLS = ("asked {}", "reference {}")


def listed(totals: list[float], tokens: list[int]) -> Any:
    columns = {"log_likelihood": pa.array(totals, pa.float64()), "reference_tokens": pa.array(tokens, pa.int64())}
    answers = pa.table(columns)
    return showing.improbable(answers, lambda row: (CELLS[0].format(row), CELLS[1].format(row)), by="base model")


def test_the_least_probable_references_come_first_by_a_token() -> None:
    usual = [-20.0 - at % 5 for at in range(40)]
    found = listed([*usual, -90.0, -160.0, -900.0], [10] * 42 + [400])
    assert found.count == 2, "the last is long, not improbable"
    assert [row[1] for row in found.rows] == ["reference 41", "reference 40"]
    assert found.rows[0][2] == f"{math.exp(-16):.2g}"
    assert "the base model finds far less probable" in found.title


def test_no_more_are_shown_than_one_reads() -> None:
    found = listed([-20.0 - at % 5 for at in range(200)] + [-90.0 - at for at in range(15)], [10] * 215)
    assert (found.count, len(found.rows)) == (15, showing.LISTED)


@pytest.mark.parametrize(
    ("totals", "tokens"),
    [([], []), ([-1.0] * 9, [1] * 9), ([0.0] * 5, [0] * 5), ([math.nan, -math.inf, -1.0, -1.1], [1, 1, 1, 1])],
)
def test_where_none_lies_far_none_is_listed(totals: list[float], tokens: list[int]) -> None:
    assert (listed(totals, tokens).count, listed(totals, tokens).rows) == (0, [])


@pytest.mark.parametrize("other", ["base", "champion"])
def test_a_report_asks_the_model_that_has_not_learned_the_rows(other: str) -> None:
    def answers(odd: int) -> Any:
        totals = [-90.0 if row == odd else -20.0 - row % 5 for row in range(40)]
        return pa.table({"answer": ["a"] * 40, "log_likelihood": totals, "reference_tokens": [10] * 40})

    sides = {"challenger": answers(3), "champion": None, "base": None, other: answers(7)}
    names = [str(row) for row in range(40)]
    scores = {name: pa.array([0.0] * 40).to_numpy() for name in ("challenger", "champion", "base model")}
    contest: Any = SimpleNamespace(**sides)
    *_, last = showing.examples(contest, names, names, scores, by="x")
    assert [row[:2] for row in last.rows] == [("7", "7")]
