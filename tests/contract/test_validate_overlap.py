"""validate says which rows of the holdout and of the anchor set share words in a row with train, and shows them."""

from __future__ import annotations

from typing import Any

from regraft.errors import Exit
from tests.contract.test_data_page import sections, shown
from tests.contract.validating import Laptop, reviews


def quoting(count: int) -> list[dict[str, Any]]:
    """Reviews in twos, of which the second quotes nine words of the first in other words of its own."""
    plain = reviews(count)
    for number in range(1, count, 2):
        own = [f"own{number}x{letter}" for letter in "abcdefghijkl"]
        plain[number]["text"] = " ".join([*own[:6], *plain[number - 1]["text"].split(), *own[6:]])
    return plain


def test_rows_that_quote_each_other_across_the_splits_are_counted_shown_and_a_warning(laptop: Laptop) -> None:
    laptop.write("a.parquet", quoting(400))
    assert laptop.run() == Exit.DONE
    found = laptop.read("validation.json")["overlap"]["holdout"]
    texts = {name: [row["text"] for row in laptop.read(f"{name}.parquet")] for name in ("train", "holdout")}
    cores = {" ".join(text.split()[6:-6]) if "own" in text else text for text in texts["train"]}
    other = {" ".join(text.split()[6:-6]) if "own" in text else text for text in texts["holdout"]}
    assert found["overlapping"] == len(cores & other) > 20
    assert (found["rows"], found["words"]) == (len(texts["holdout"]), 9)
    assert len(found["shown"]) == 10
    check = laptop.checks()["overlap"]
    assert (check["passed"], check["severity"], check["key"]) == (False, "warning", "data.contract.overlap.max")
    assert f"{found['overlapping']:,} of {found['rows']:,} rows of the holdout" in check["sentence"]
    assert "have 9 words in a row in common with a row of train, at most 10.0% may" in check["sentence"]
    page = sections(shown(laptop.store))["Overlap with train"]
    assert page.count("<mark>film ") == 20


def test_a_limit_that_is_critical_refuses_the_data(laptop: Laptop) -> None:
    laptop.recipe(contract={"overlap": {"max": 0.05, "severity": "critical"}})
    laptop.write("a.parquet", quoting(400))
    assert laptop.run() == Exit.REFUSED
    assert "overlap: " in (laptop.manifest().refused or "")


def test_an_anchor_set_is_looked_at_too_and_another_one_is_another_validation(laptop: Laptop) -> None:
    laptop.write("a.parquet", reviews(300))
    path = laptop.folder / "recipe.yaml"
    path.write_text(f"{path.read_text()}gates: {{forgetting: {{anchor: {laptop.folder}/anchor.csv}}}}\n")
    anchor = laptop.folder / "anchor.csv"
    anchor.write_text("text,label\nwhat is a film of which many say,positive\n,negative\n")
    assert laptop.run() == Exit.DONE
    first, none = laptop.manifest().identity, laptop.read("validation.json")["overlap"]["anchor set"]
    assert (none["rows"], none["overlapping"]) == (1, 0), "evaluate names the row without a text"
    quoted = laptop.read("train.parquet")[0]["text"]
    anchor.write_text(f"{anchor.read_text()}and {quoted} they say,negative\n")
    assert laptop.run() == Exit.DONE
    assert laptop.manifest().identity != first
    found = laptop.read("validation.json")["overlap"]["anchor set"]
    assert (found["rows"], found["overlapping"]) == (2, 1)
    assert found["shown"] == [{"row": f"and ⟦{quoted}⟧ they say", "train": f"⟦{quoted}⟧"}]
    assert not laptop.checks()["anchor_overlap"]["passed"]


def test_the_order_of_rows_and_files_does_not_show(laptop: Laptop) -> None:
    rows = quoting(300)
    laptop.write("a.parquet", rows)
    assert laptop.run() == Exit.DONE
    whole = laptop.read("validation.json")["overlap"]
    (laptop.folder / "data/a.parquet").unlink()
    laptop.write("b.jsonl", rows[:100:-1])
    laptop.write("c.jsonl", rows[:101])
    assert laptop.run() == Exit.DONE
    assert laptop.read("validation.json")["overlap"] == whole
