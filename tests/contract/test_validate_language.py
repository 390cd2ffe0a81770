"""validate says in which languages the rows are, and whether that is what the champion was trained on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from regraft.errors import Exit
from tests.contract.test_data_page import champion, sections, shown
from tests.contract.validating import RUN, Laptop
from tests.unit.test_validate_language import GERMAN
from tests.worlds import Tiny, of

WORDS = {
    "en": "the delivery was late and nobody answered my questions about what they should have brought with it",
    "de": "die Lieferung kam gestern nicht und niemand hat meine Fragen danach beantwortet obwohl wir bezahlt haben",
}


def put(laptop: Laptop, *languages: str) -> None:
    chance = random.Random(1)
    rows = [
        {"text": " ".join(chance.sample(WORDS[name].split(), 12)), "label": ["negative", "positive"][number % 2]}
        for number in range(150)
        for name in languages
    ]
    laptop.write("a.parquet", rows)


def test_languages_are_counted_on_the_page_and_compared_with_the_champion_s_data(laptop: Laptop) -> None:
    laptop.recipe(contract={"near_duplicates": {"max": 1}, "languages": {"only": ["en"]}, "drift": {"max": 0.2}})
    put(laptop, "en")
    assert laptop.run() == Exit.DONE
    before = laptop.read("validation.json")["languages"]
    assert [*before] == ["en"]
    assert laptop.read("profile.json")["languages"] == before
    assert laptop.checks()["languages"]["passed"]
    assert "language_drift" not in laptop.checks()
    champion(laptop.store, RUN)
    put(laptop, "en", "de")
    later = "2026-12-01T03-00"
    assert laptop.run(later) == Exit.DONE
    assert {*laptop.read("validation.json", later)["languages"]} == {"en", "de"}
    assert not laptop.checks(later)["languages"]["passed"]
    assert not laptop.checks(later)["language_drift"]["passed"]
    page = sections(shown(laptop.store, later))["Languages"]
    assert ">de<" in page
    assert "champion's data" in page


def test_of_a_conversation_the_language_is_that_of_what_is_said(bases: Callable[[str], Path], tmp_path: Path) -> None:
    world = Tiny(tmp_path, bases("chat"), task="chat")
    rows = of("chat").rows(60)
    for number, row in enumerate(rows):
        row["messages"] = [{"role": "user", "content": f"{GERMAN} {number}x"}, {"role": "assistant", "content": "good"}]
    world.put(rows)
    code, output = world.step("validate")
    assert code in (0, 10), output
    result = world.result("validate")
    assert b'"languages": {\n  "de": ' in world.store.output(result, "validation.json")
