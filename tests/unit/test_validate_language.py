"""The languages of texts: which they are told to be, and when nobody is sure."""

from __future__ import annotations

from typing import Any

import pytest

from components.validate import language
from regraft.parts import LanguageCheck
from regraft.tasks.text_classification.recipe import Columns, Data

ENGLISH = "The delivery was late and nobody answered my questions about it."
GERMAN = "Die Lieferung kam zu spät und niemand hat meine Fragen beantwortet."
CHINESE = "快递来得太晚了没有人回答我的问题。"


def data(**contract: Any) -> Data:
    of = {"source": "x", "columns": Columns(text="text", label="label"), "labels": ("a", "b")}
    return Data(**of, contract=contract)


def test_texts_are_counted_by_language_the_most_frequent_first() -> None:
    assert list(language.counts([GERMAN, *[ENGLISH] * 3, CHINESE, CHINESE]).items()) == [
        ("en", 3),
        ("zh", 2),
        ("de", 1),
    ]
    assert language.counts([]) == {}


@pytest.mark.parametrize("text", ["ok", "12345", "AB-123", "?!", "good"])
def test_what_may_be_any_language_is_called_none(text: str) -> None:
    assert language.counts([text]) == {language.UNKNOWN: 1}


def test_rows_in_other_languages_than_the_recipe_names_are_a_warning_that_names_them() -> None:
    allowing = data(languages=LanguageCheck(only=("en", "fr"), max=0.1))
    now = {"en": 80, language.UNKNOWN: 100, "de": 15, "zh": 5}
    (check,) = language.checks(allowing, now, None)
    assert (check.observed, check.max, check.severity) == (0.2, 0.1, "warning")
    assert check.sentence == (
        "20 of 100 rows of a sample (20.0%) are in other languages than en, fr (15 de, 5 zh), at most 10.0% may"
    )
    (fine,) = language.checks(allowing, {"en": 3, "fr": 2}, None)
    assert fine.observed == 0


def test_without_languages_in_the_recipe_only_a_champion_s_data_is_compared_with() -> None:
    assert list(language.checks(data(), {"en": 3}, None)) == []
    (same,) = language.checks(data(), {"en": 300}, {"en": 20})
    (other,) = language.checks(data(), {"en": 100, "de": 100}, {"en": 20})
    assert same.observed == 0
    assert other.observed > 0.4 > other.max
    assert other.name == "language_drift"
