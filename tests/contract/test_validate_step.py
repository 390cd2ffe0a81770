"""The step validate as runners start it: what it publishes, what it refuses, what it cannot read."""

from __future__ import annotations

import html
import json
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.validate import contract
from regraft.errors import Exit
from regraft.ledger import Ledger
from tests.contract.validating import RUN, Laptop, as_csv, reviews


def test_good_data_is_frozen_with_everything_that_later_steps_read(laptop: Laptop) -> None:
    laptop.recipe(columns={"text": "text", "label": "label", "slices": ["channel"]})
    laptop.write("a.parquet", reviews(400))
    assert laptop.run() == Exit.DONE
    manifest = laptop.manifest()
    assert set(manifest.outputs) == {
        "train.parquet",
        "dev.parquet",
        "holdout.parquet",
        "validation.json",
        "profile.json",
        "quarantine.parquet",
    }
    assert "data_docs/index.html" in manifest.views
    rows = [row for name in ("train", "dev", "holdout") for row in laptop.read(f"{name}.parquet")]
    assert sorted(row["text"] for row in rows) == sorted(row["text"] for row in reviews(400))
    assert set(rows[0]) == {"text", "label", "digest", "slice.channel"}
    source = {row["text"]: row for row in reviews(400)}
    for row in rows:
        assert ["negative", "positive"][row["label"]] == source[row["text"]]["label"]
        assert row["slice.channel"] == source[row["text"]]["channel"]


def test_one_input_with_two_labels_is_two_rows_of_one_digest_in_one_split(laptop: Laptop) -> None:
    found = reviews(400)
    other = {"negative": "positive", "positive": "negative"}[found[0]["label"]]
    laptop.write("a.parquet", [*found, {**found[0], "label": other}, found[0]])
    assert laptop.run() == Exit.DONE
    assert laptop.read("validation.json")["rows"]["duplicates"] == 1
    splits = {name: laptop.read(f"{name}.parquet") for name in ("train", "dev", "holdout")}
    twins = [
        (n, row["label"], row["digest"])
        for n, rows in splits.items()
        for row in rows
        if row["text"] == found[0]["text"]
    ]
    assert sorted(label for _, label, _ in twins) == [0, 1]
    assert len({(split, digest) for split, _, digest in twins}) == 1


def test_great_expectations_shows_each_check_and_what_was_found(laptop: Laptop) -> None:
    laptop.write("a.parquet", [*reviews(400), *reviews(100)])
    assert laptop.run() == Exit.DONE
    manifest = laptop.manifest()
    folder = laptop.store.fetch(f"validate/{manifest.identity}", manifest, laptop.folder / "docs", only=("data_docs",))
    (file,) = folder.glob("data_docs/validations/contract/**/*.html")
    page = html.unescape(file.read_text())
    for check in laptop.checks().values():
        assert check["name"] == "frozen_rows" or check["sentence"] in page
    assert not laptop.checks()["duplicates"]["passed"]
    assert "Failed" in page
    index = folder / "data_docs/index.html"
    links = re.findall(r'href="((?:validations|expectations)/[^"]+)"', index.read_text())
    assert file.relative_to(index.parent).as_posix() in links
    assert len(links) == 4
    assert all((index.parent / link).is_file() for link in links)


def test_data_docs_open_offline(laptop: Laptop) -> None:
    laptop.write("a.parquet", reviews(400))
    assert laptop.run() == Exit.DONE
    manifest = laptop.manifest()
    folder = laptop.store.fetch(f"validate/{manifest.identity}", manifest, laptop.folder / "docs", only=("data_docs",))
    pages = list(folder.rglob("*.html"))
    assert len(pages) == 5
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"<script|<link|@import|<(?:img|iframe)[^>]*https?:|url\(\W?https?:", text), page
        assert ".fa-check-circle::before" in text


@pytest.mark.parametrize(
    ("source", "write"),
    [
        ("data/one.parquet", lambda laptop, rows: laptop.write("one.parquet", rows)),
        ("data/one.csv", lambda laptop, rows: laptop.write("one.csv", as_csv(rows))),
        ("data/one.jsonl", lambda laptop, rows: laptop.write("one.jsonl", rows)),
        ("data/part-*.jsonl", lambda laptop, rows: [laptop.write(f"part-{k}.jsonl", rows[k::3]) for k in range(3)]),
        (
            "data",
            lambda laptop, rows: [
                laptop.write(
                    f"channel={name}/part.parquet",
                    [{k: row[k] for k in ("text", "label")} for row in rows if row["channel"] == name],
                )
                for name in ("web", "app")
            ],
        ),
    ],
    ids=["parquet", "csv", "jsonl", "glob", "partitioned directory"],
)
def test_the_same_rows_freeze_to_the_same_bytes_whatever_the_format_order_and_files(
    laptop: Laptop, source: str, write: Callable[[Laptop, list[dict[str, Any]]], Any]
) -> None:
    columns = {"text": "text", "label": "label", "slices": ["channel"]}
    laptop.recipe(columns=columns)
    laptop.write("a.parquet", reviews(300)[::-1])
    assert laptop.run() == Exit.DONE
    expected = {name: laptop.manifest().outputs[f"{name}.parquet"].sha256 for name in ("train", "dev", "holdout")}
    (laptop.folder / "data/a.parquet").unlink()
    write(laptop, reviews(300))
    laptop.recipe(source=source, columns=columns)
    assert laptop.run() == Exit.DONE
    assert {name: laptop.manifest().outputs[f"{name}.parquet"].sha256 for name in expected} == expected


def test_a_rerun_after_its_result_was_cleared_makes_the_same_digest(laptop: Laptop) -> None:
    laptop.write("a.parquet", [*reviews(300), {"text": None, "label": "positive", "channel": "web"}])
    assert laptop.run() == Exit.DONE
    first = laptop.manifest()
    laptop.store.clear(f"validate/{first.identity}")
    assert laptop.run() == Exit.DONE
    assert laptop.manifest().attempt != first.attempt
    assert laptop.manifest().digest == first.digest


def test_rows_after_the_run_or_before_its_window_do_not_count(laptop: Laptop) -> None:
    laptop.recipe(columns={"text": "text", "label": "label", "time": "arrived"}, window="7d")
    rows = reviews(400)
    days = {0: "2026-11-10T00:00:00Z", 1: "2026-11-24T03:00:00Z", 2: "2026-11-17T03:00:00Z", 3: "2026-11-24T02:59:59Z"}
    for i, row in enumerate(rows):
        row["arrived"] = days[i % 4]
    laptop.write("a.jsonl", rows)
    assert laptop.run() == Exit.DONE
    texts = {row["text"] for name in ("train", "dev", "holdout") for row in laptop.read(f"{name}.parquet")}
    assert texts == {row["text"] for i, row in enumerate(rows) if i % 4 >= 2}
    assert laptop.read("validation.json")["rows"]["outside_window"] == 200


def test_data_is_compared_with_what_the_champion_was_trained_on(laptop: Laptop) -> None:
    laptop.write("a.parquet", reviews(400))
    assert laptop.run() == Exit.DONE
    assert "word_drift" not in laptop.checks()
    Ledger(laptop.store).append(
        None, kind="promote", version=1, model="1" * 64, run=RUN, evaluation="e" * 64, reason="the first", who="test"
    )
    later = "2026-12-01T03-00"
    foreign = [
        {"text": row["text"].replace("film", "invoice").replace("a", "o").replace("i", "u"), "label": label}
        for row, label in zip(reviews(140), ["negative"] * 20 + ["positive"] * 120, strict=True)
    ]
    laptop.write("a.parquet", foreign)
    assert laptop.run(later) == Exit.DONE
    failed = {name for name, check in laptop.checks(later).items() if not check["passed"]}
    assert failed >= {"word_drift", "label_drift", "row_count"}
    assert all(laptop.checks(later)[name]["severity"] == "warning" for name in failed)
    assert "most moved: film, " in laptop.checks(later)["word_drift"]["sentence"]


def test_personal_data_and_tokens_are_counted_and_reported(laptop: Laptop) -> None:
    laptop.recipe(contract={"tokens": {"max": 12, "severity": "critical"}})
    rows = reviews(300)
    for i, found in enumerate(
        ["write to jo@example.org", "card 4111 1111 1111 1111", "call +49 30 1234567", "10.0.0.17"]
    ):
        rows[i]["text"] += f" {found}"
    laptop.write("a.parquet", rows)
    assert laptop.run() == Exit.REFUSED
    checks = laptop.checks()
    assert (
        "4 of 300 rows (1.3%) hold what looks like personal data (1 card, 1 e-mail, 1 ip, 1 phone)"
        in checks["pii"]["sentence"]
    )
    assert not checks["tokens"]["passed"]
    assert "example.org" not in json.dumps(checks)


# What it refuses: a complete result, exit 10


def with_labels(*labels: str | None) -> list[dict[str, Any]]:
    return [{**row, "label": labels[i % len(labels)]} for i, row in enumerate(reviews(300))]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (with_labels(None), "nulls: 300 of 300 rows (100.0%) lack a text, a label or a time (300 with no label)"),
        (with_labels("positive"), "labels: the label 'negative' has 0 of 300 rows"),
        (with_labels("positive", "negative", "mixed"), "100 unknown label: 'mixed'; the recipe knows ['negative',"),
        (reviews(99), "rows: 99 good, distinct rows are left, at least 100 are needed"),
        (reviews(50) * 4, "rows: 50 good"),
    ],
    ids=["all-null labels", "one class", "label never seen", "too few rows", "copies of few rows"],
)
def test_data_that_breaks_the_contract_is_refused_with_the_reason(
    laptop: Laptop, capfd: pytest.CaptureFixture[str], rows: list[dict[str, Any]], complaint: str
) -> None:
    laptop.write("a.jsonl", rows)
    assert laptop.run() == Exit.REFUSED
    said = capfd.readouterr().err
    assert complaint in said
    assert "quarantine.parquet" in said
    assert "run again" in said
    manifest = laptop.manifest()
    assert complaint in (manifest.refused or "")
    assert {"validation.json", "train.parquet"} <= set(manifest.outputs)
    assert "data_docs/index.html" in manifest.views
    pointer = laptop.store.read_json(f"runs/{RUN}/validate.json")
    assert (pointer["state"], pointer["refused_by"], manifest.refused_by) == ("refused", "contract", "contract")


def test_stale_data_is_refused_by_the_time_of_the_run_not_by_the_clock(laptop: Laptop) -> None:
    columns = {"text": "text", "label": "label", "time": "arrived"}
    laptop.recipe(columns=columns, contract={"freshness": {"max_age": "24h"}})
    laptop.write("a.jsonl", [{**row, "arrived": "2020-02-01 12:00"} for row in reviews(300)])
    assert laptop.run("2020-02-02T03-00") == Exit.DONE
    assert laptop.run("2020-02-02T13-00") == Exit.REFUSED
    assert "freshness: the newest row is 25.0 hours old" in (laptop.manifest("2020-02-02T13-00").refused or "")


# What it cannot read: exit 20, nothing half-written


CHECK = contract.Check(name="rows", key="k", severity="critical", observed=3.0, min=4.0, rule="four rows", sentence="3")
SAMPLE = pa.table({"text": ["a", "b"], "label": ["no", "yes"], "digest": ["0" * 64, "1" * 64]})


def test_great_expectations_says_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    with contract.judge() as judged:
        found = judged([CHECK], SAMPLE, {"label": ("no", "yes")}, tmp_path / "one")
    assert found == contract.judged([CHECK], SAMPLE, {"label": ("no", "yes")}, tmp_path / "other")
    assert [check.passed for check in found] == [False, True]
    assert (tmp_path / "one/index.html").exists()


def test_that_process_killed_means_out_of_memory_and_broken_a_bug(tmp_path: Path) -> None:
    with contract.judge() as judged:
        multiprocessing.active_children()[0].kill()
        with pytest.raises(MemoryError):
            judged([CHECK], SAMPLE, {"label": ("no", "yes")}, tmp_path)
    with contract.judge() as judged, pytest.raises(RuntimeError, match="ended with 1"):
        judged([CHECK], None, {"label": ("no", "yes")}, tmp_path)
    assert not multiprocessing.active_children()
