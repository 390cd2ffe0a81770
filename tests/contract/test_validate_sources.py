"""validate and sources that are damaged, malformed or away."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.errors import Exit
from tests.contract.validating import RUN, Laptop, as_csv, reviews


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
        monkeypatch.setattr("regraft.reading.lines.BLOCK_BYTES", block)
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


def test_a_tsv_with_lone_quotes_is_read_whole(laptop: Laptop) -> None:
    rows = reviews(300)
    for row in (rows[40], rows[231]):
        row["text"] = f'"{row["text"]}'
    laptop.write("a.tsv", "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    assert laptop.run() == Exit.DONE
    kept = [row["text"] for split in ("train", "dev", "holdout") for row in laptop.read(f"{split}.parquet")]
    assert sorted(kept) == sorted(row["text"] for row in rows)
    assert laptop.read("quarantine.parquet") == []


def test_more_open_quotes_than_the_recipe_allows_refuse_the_run_and_the_first_is_named(laptop: Laptop) -> None:
    lines = [f"{row['text']},{row['label']}" for row in reviews(300)]
    for place in (40, 41, 120, 231):
        lines[place] = '"' + lines[place]
    laptop.write("a.csv", "\n".join(["text,label", *lines]))
    assert laptop.run() == Exit.REFUSED
    complaint = (
        "4 of 300 rows (1.3%) are bad and set aside (4 malformed line; the first malformed: row 41 of a.csv opens"
    )
    assert complaint in (laptop.manifest().refused or "")


def test_rows_of_several_lines_are_said_and_what_may_be_an_open_quote_is_a_warning(
    laptop: Laptop, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = [row["text"] for row in reviews(300)]
    joined = "\n".join(texts[10:60])
    for label, some in (("negative", [*texts[:10], f'"{joined}"', *texts[60:180]]), ("positive", texts[180:])):
        laptop.write(f"label={label}/a.csv", "\n".join(["text", *some]))
    said = "1 of 251 rows spans several lines: row 11 of a.csv 50, no other more than 1; where its quote is open by"
    assert laptop.run() == Exit.DONE
    assert f"warning: {laptop.folder / 'data'}: {said}" in capfd.readouterr().err
    (warning,) = laptop.manifest().metrics["warnings"]
    assert warning.startswith(f"lines: {said}")
    assert laptop.read("validation.json")["lines"] == laptop.manifest().metrics["lines"]
    laptop.write("label=positive/b.csv", 'text\n"one, of\n\nmany lines"\n"' + "\n\n".join(texts[60:65]) + '"\n')
    assert laptop.run() == Exit.DONE
    assert "3 of 253 rows span several lines: row 11 of a.csv 50, no other more than 9" in capfd.readouterr().err
    assert laptop.manifest().metrics["warnings"] == []


def test_labels_in_paths_are_read_anew_when_a_folder_is_renamed_and_a_moved_source_is_not(
    laptop: Laptop, capfd: pytest.CaptureFixture[str]
) -> None:
    for label in ("negative", "positive"):
        rows = [{"text": row["text"]} for row in reviews(300) if row["label"] == label]
        laptop.write(f"day/label={label}/a.parquet", rows)
    assert laptop.run() == Exit.DONE
    first = laptop.manifest().identity
    (laptop.folder / "data/day").rename(laptop.folder / "data/night")
    assert laptop.run() == Exit.DONE
    assert laptop.manifest().identity == first
    (laptop.folder / "data/night/label=negative").rename(laptop.folder / "data/night/label=x")
    assert laptop.run() == Exit.REFUSED
    assert "150 unknown label: 'x'" in capfd.readouterr().err


def test_names_of_files_need_not_be_utf_8(laptop: Laptop) -> None:
    folder = os.fsencode(laptop.folder / "data") + b"/channel=caf\xe9/"
    os.mkdir(folder)
    for name, content in (
        (b"d\xe9j\xe0.csv", as_csv(reviews(300)).replace("channel", "x") + "cut\n"),
        (b"\xe9.zst", "x"),
    ):
        Path(os.fsdecode(folder + name)).write_text(content)
    laptop.recipe(columns={"text": "text", "label": "label", "slices": ["channel"]})
    assert laptop.run() == Exit.DONE
    assert "channel=caf\\udce9/\\udce9.zst not read" in laptop.manifest().metrics["left_out"]["unread"]
    assert laptop.read("train.parquet")[0]["slice.channel"] == "caf\\udce9"


def test_what_is_not_read_is_said_in_the_log_and_in_the_result_also_when_cached(
    laptop: Laptop, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = reviews(300)
    laptop.write("a.csv", as_csv(rows[:150]))
    laptop.write("B.CSV", as_csv(rows[150:]))
    assert laptop.run() == Exit.DONE
    assert laptop.manifest().metrics["left_out"] == {}
    before = laptop.manifest().identity
    relabelled = [{**row, "label": "positive"} for row in rows]
    laptop.write(".ipynb_checkpoints/a-checkpoint.csv", as_csv(relabelled))
    laptop.write("_delta_log/0.json", relabelled)
    laptop.write("c.csv.zst", b"packed")
    for _ in range(2):
        assert laptop.run() == Exit.DONE
        said = capfd.readouterr().err
        assert "2 files left out: a part of the path starts with . or _ (.ipynb_checkpoints/a-checkpoint.csv" in said
        assert "c.csv.zst not read: the source does not match it, or it ends in none of .parquet, " in said
        assert "this Delta table's log has removed are read too" in said
    manifest = laptop.manifest()
    assert manifest.identity != before, "its report says what the one before did not"
    assert manifest.metrics["rows"] == {"train": 214, "dev": 28, "holdout": 58}
    assert laptop.read("validation.json")["left_out"] == manifest.metrics["left_out"]
    assert [warning.partition(":")[0] for warning in manifest.metrics["warnings"]] == ["unread", "table"]


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
            "cannot be read: its first 1,000 rows are malformed; row 1 has 3 of the header's 2 values",
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
    monkeypatch.setattr("regraft.reading.lines.BLOCK_BYTES", 1 << 20)
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
