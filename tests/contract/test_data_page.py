"""The data page of a validation: what it shows, of each task; what it keeps to itself; what it changes: nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from components.validate import contract, inputs, page, work
from regraft import pipeline, tasks
from regraft.errors import Exit
from regraft.ledger import Ledger
from regraft.reading import delimited, json_lines, lines, parquet
from regraft.step import _run
from regraft.store import Store
from tests.contract.validating import RUN, Laptop, reviews
from tests.worlds import LATER, TASKS, Tiny, of

PERSONAL = {
    "e-mail": "grace.brewster+navy@mail.example.org",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "ip": "192.168.117.23",
    "phone": "+49 30 901820 77",
    "ssn": "123-45-6789",
}


def shown(store: Store, run: str = RUN) -> str:
    """The page of a run's validation."""
    identity = store.read_json(f"runs/{run}/validate.json")["identity"]
    manifest = store.manifest(f"validate/{identity}")
    assert manifest is not None
    assert "data.html" in manifest.views
    assert "data.html" not in manifest.outputs
    return store.read(f"validate/{identity}/{manifest.attempt}/data.html").decode()


def champion(store: Store, run: str) -> None:
    """Makes the model of a run champion."""
    about: dict[str, Any] = {"version": 1, "model": "1" * 64, "evaluation": "e" * 64, "reason": "first", "who": "test"}
    Ledger(store).append(None, kind="promote", run=run, **about)


def sections(html: str) -> dict[str, str]:
    """What stands below each heading."""
    parts = re.split("<h2>(.*?)</h2>", html)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_page_with_all_sections_that_opens_offline(
    task: str, bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "judge", lambda: nullcontext(contract.judged))
    tiny = Tiny(tmp_path, bases(task), task=task)
    tiny.recipe.write_text(tiny.recipe.read_text().replace("contract: {", "contract: {tokens: {max: 12}, "))

    def run(run: str) -> Exit:
        return _run(pipeline.step("validate"), tiny.recipe, tiny.store.url, run, inputs, work, None)

    assert run(RUN) == Exit.DONE
    first = sections(shown(tiny.store))
    assert "nothing to compare with" in first["Drift"]
    champion(tiny.store, RUN)
    rows = of(task).rows(400, seed=3)
    twins = [of(task).near(row) for row in rows[-20:]]
    tiny.put([*of(task).damaged(rows[:100]), *rows[100:], *twins])
    assert run(LATER) == Exit.REFUSED
    html = shown(tiny.store, LATER)
    later = sections(html)
    assert [*later] == [
        "What became of the rows",
        "Balance",
        "Languages",
        "Lengths",
        *(["What a model learns"] if hasattr(tasks.of(task), "mask") else []),
        "Drift",
        "Set aside",
        "Near-duplicates",
        "Overlap with train",
        "Personal data",
        "Instructions to a model",
        "Checks",
        "Where it comes from",
    ]
    assert "refused" in html[: html.index("<h2>")]
    pictures = {name: part.count("<svg") for name, part in later.items() if "<svg" in part}
    assert pictures == {"What became of the rows": 1, "Balance": 1, "Languages": 1, "Lengths": 2, "Drift": 1}
    assert "at most 12<" in later["Lengths"]
    assert "champion's data" in later["Balance"]
    assert of(task).REFUSED in later["Set aside"]
    assert 10 <= later["Set aside"].count("<tr>") <= 60
    assert later["Near-duplicates"].count("<details") > 1
    for check in json.loads(_output(tiny.store, "validation.json"))["checks"]:
        assert f">{check['name']}</td>" in later["Checks"]
    assert not re.findall(r"<link|<iframe|@import|(?:src|href)=.?https?:|url\(\W?https?:", html)
    assert html.count("<script") == 1, "our own, which is in the page"
    assert str(tmp_path) not in html


def _output(store: Store, name: str) -> bytes:
    manifest = store.manifest(f"validate/{store.read_json(f'runs/{LATER}/validate.json')['identity']}")
    assert manifest is not None
    return store.output(manifest, name)


def test_rows_are_shown_by_the_day_that_they_arrived(laptop: Laptop) -> None:
    laptop.recipe(columns={"text": "text", "label": "label", "time": "arrived"}, window="7d")
    laptop.write("a.jsonl", [{**row, "arrived": f"2026-11-{18 + i % 6}"} for i, row in enumerate(reviews(400))])
    assert laptop.run() == Exit.DONE
    html = shown(laptop.store)
    assert "rows from 2026-11-17 03:00 until 2026-11-24 03:00 UTC" in " ".join(html.split())
    assert sections(html)["What became of the rows"].count("<svg") == 2


def test_no_personal_data_is_on_the_page(laptop: Laptop) -> None:
    """Whether its row is frozen, set aside, cut or a near-duplicate, and whether it is in a text or in a label."""
    rows = reviews(300)
    twins = [{"text": " ".join([*rows[0]["text"].split() * 3, *PERSONAL.values(), end])} for end in ("once", "twice")]
    rows += [{**row, "label": "negative"} for row in twins]
    for number, value in enumerate(PERSONAL.values()):
        rows[number]["text"] = f"film {value} " * 5
        rows[20 + number]["label"] = f"by {value}"
        for cut in (1, len(value) // 2, len(value) - 1):
            text = f"{'x' * (199 - cut)} {value}, and more"
            rows.append({"text": f"{text} \ufffd", "label": "negative"})
    laptop.recipe(quarantine=0.5)
    laptop.write("a.parquet", rows)
    assert laptop.run() in (Exit.DONE, Exit.REFUSED)
    html = shown(laptop.store)
    for kind, value in PERSONAL.items():
        assert f"[{kind}]" in html
        pieces = {value[at : at + 6] for at in range(len(value) - 5)} - {"exampl", "ample."}
        assert not [piece for piece in pieces if piece in html], kind
    aside = json.dumps(laptop.read("quarantine.parquet"))
    assert all(value in aside for value in PERSONAL.values()), "the file has it, for who mends the source"


def test_the_page_is_no_part_of_the_result(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.write("a.parquet", reviews(300))
    assert laptop.run() == Exit.DONE
    made = laptop.manifest()
    laptop.store.clear(f"validate/{made.identity}")
    monkeypatch.setattr(page, "pictures", lambda *_: {})
    monkeypatch.setattr(page, "render", lambda *_, **__: "another page")
    assert laptop.run() == Exit.DONE
    assert shown(laptop.store) == "another page"
    assert laptop.manifest().digest == made.digest


def test_threads_and_batches_do_not_change_the_page(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = reviews(900)
    for i, row in enumerate(rows):
        row["label"] = {7: "mixed", 8: None}.get(i % 60, row["label"])
        row["text"] = " ".join([*row["text"].split(), *rows[i % 40]["text"].split() * 5])
    laptop.recipe(quarantine=0.5)
    for number in range(3):
        laptop.write(f"{number}.jsonl", rows[number::3])
    made = []
    for cpu, batch in ((1, None), (4, 70)):
        if batch:
            for module in (lines, parquet, delimited, json_lines):
                if hasattr(module, "BATCH_ROWS"):
                    monkeypatch.setattr(module, "BATCH_ROWS", batch)
            monkeypatch.setattr("regraft.reading.BATCH_ROWS", batch)
        recipe = (laptop.folder / "recipe.yaml").read_text().partition("resources:")[0]
        (laptop.folder / "recipe.yaml").write_text(f"{recipe}resources: {{validate: {{cpu: {cpu}}}}}\n")
        assert laptop.run() in (Exit.DONE, Exit.REFUSED)
        made.append(shown(laptop.store))
        laptop.store.clear(f"validate/{laptop.manifest().identity}")
    assert made[0] == made[1]
    assert "mixed" in sections(made[0])["Set aside"]
    assert "<details" in sections(made[0])["Near-duplicates"]
