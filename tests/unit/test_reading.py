"""Rows of tables whose quotes, types and headers are not as they should be: each is read, or named with its reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from regraft import reading, tasks
from regraft.errors import BadInput
from regraft.reading import delimited, lines
from regraft.tasks.text_classification.recipe import Columns, Data

OPEN = "opens a quote and does not close it"


def source(path: Path, **more: Any) -> reading.Source:
    columns = more.pop("columns", Columns(text="text", label="label"))
    data = Data(source=str(path), columns=columns, labels=("negative", "positive"), **more)
    return tasks.source("text-classification", data, data.source)


def read(path: Path, content: bytes | str, **more: Any) -> list[tuple[str, str | None]]:
    """Texts and labels; of malformed rows their bytes and why they are malformed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = source(path, **more)
    rows = [row for table, _ in reading.batches(found, reading.files(found)) for row in table.to_pylist()]
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["text"].decode(), row["malformed"] or row["label"]) for row in rows]


@pytest.mark.parametrize("name", ["a.tsv", "a.TSV", "a.tsv.gz"])
def test_a_quote_in_tsv_is_a_character(tmp_path: Path, name: str) -> None:
    content = b'text\tlabel\n"lone\tpositive\nb\tnegative\n"c\tpositive\n'
    packed = gzip.compress(content) if name.endswith("gz") else content
    assert read(tmp_path / name, packed) == [('"lone', "positive"), ("b", "negative"), ('"c', "positive")]


def test_the_recipe_says_that_tsv_is_quoted_or_that_csv_is_not(tmp_path: Path) -> None:
    quoted = 'text\tlabel\n"two\nlines"\tpositive\n'
    assert read(tmp_path / "a.tsv", quoted, quoting="minimal") == [("two\nlines", "positive")]
    assert read(tmp_path / "a.csv", 'text,label\n"lone,positive\n', quoting="none") == [('"lone', "positive")]


def test_a_tsv_whose_header_stands_in_quotes_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no column 'text'") as raised:
        read(tmp_path / "a.tsv", '"text"\t"label"\n"a"\t"positive"\n')
    assert "`quoting: minimal`" in str(raised.value)


def test_a_null_in_a_path_is_spelled_as_hive_does(tmp_path: Path) -> None:
    assert read(tmp_path / "label=__HIVE_DEFAULT_PARTITION__/a.csv", "text,x\na,1\n") == [("a", None)]
    assert read(tmp_path / "label=caf%C3%A9/a.csv", "text,x\na,1\n") == [("a", "café")]


SWALLOWED = {
    "closed by the quote of a later row": ['"film a,positive', "film b,negative", '"film c,positive', '"d",negative'],
    "closed in the middle of a later row": ['"film a,positive', 'film "big" b,negative'],
    "closed at the end of a later value": ['"film a,positive', "film b,negative", 'a screen of 12",positive'],
    "closed at the end of the next value": ['"film a,positive', 'a screen of 12",positive'],
    "over a row without a label": ['"film a,positive', "film b,", 'a screen of 12",positive'],
    "closed by the end of the file": ["film b,negative", '"film a,positive', "film c,negative"],
    "in the last row": ["film b,negative", '"film a,positive'],
    "in the label": ['film a,"positive', "film b,negative", 'film c,"negative"'],
}


@pytest.mark.parametrize("rows", SWALLOWED.values(), ids=SWALLOWED)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_row_that_opens_a_quote_is_malformed_alone_and_swallows_no_other(
    tmp_path: Path, rows: list[str], end: str
) -> None:
    found = read(tmp_path / "a.csv", end.join(["text,label", *rows, *["film e,positive"] * 3, ""]))
    assert len(found) == len(rows) + 3
    for number, (row, (text, label)) in enumerate(zip(rows, found, strict=False), start=1):
        if "film a" in row or '"film c,' in row:
            assert (text, label) == (row, f"row {number} of a.csv {OPEN}")
        else:
            values = row.rpartition(",")
            assert label == values[2].strip('"')
            assert text == {'"d"': "d"}.get(values[0], values[0])
    assert found[-3:] == [("film e", "positive")] * 3


@pytest.mark.parametrize("first", ["label", "text"])
def test_quoted_values_of_several_lines_are_meant(tmp_path: Path, first: str) -> None:
    texts = [
        "two\nlines",
        "Dear, sir\n\nthanks, for it",
        'he "said"\r\nno',
        "a,positive",
        "\n",
        "one, two\nthree, four",
    ]
    pairs = [f'"{text.replace(chr(34), chr(34) * 2)}"' for text in texts]
    rows = [f"{text},positive" if first == "text" else f"positive,{text}" for text in pairs]
    head = "text,label" if first == "text" else "label,text"
    assert read(tmp_path / "a.csv", "\n".join([head, *rows])) == [(text, "positive") for text in texts]


ONE_COLUMN = [f"film {i}" for i in range(300)]
NARROW = {
    "one column": ("text", ONE_COLUMN, 190),
    "a column that repeats": ("text,channel", [f"film {i},{['web', 'app'][i % 2]}" for i in range(300)], 2),
    "a column of numbers": ("text,id", [f"film {i},{i}" for i in range(300)], 3),
    "columns of numbers": ("text,id,time", [f"film {i},{i},{i}" for i in range(300)], 2),
}


@pytest.mark.parametrize(("head", "rows", "over"), NARROW.values(), ids=NARROW)
@pytest.mark.parametrize("block", [2000, 32 << 20])
def test_an_open_quote_is_found_where_the_label_stands_in_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, rows: list[str], over: int, block: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    rows, last = rows.copy(), 10 + over - 1
    rows[10] = f'"{rows[10]}'
    text, comma, more = rows[last].partition(",")
    rows[last] = f'{text}"{comma}{more}'
    found = read(tmp_path / "label=positive/a.csv", "\n".join([head, *rows, ""]))
    assert found.pop(10) == (rows.pop(10), f"row 11 of a.csv {OPEN}")
    assert found == [(row.partition(",")[0], "positive") for row in rows]


def test_an_open_quote_is_found_among_labels_that_the_recipe_does_not_know(tmp_path: Path) -> None:
    rows = [f"film {i},{'positive' if i % 5 < 2 else f'grade {i % 5}'}" for i in range(300)]
    rows[12], rows[17] = f'"{rows[12]}', rows[17].replace(",", '",')
    found = read(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    assert found.pop(12) == (rows.pop(12), f"row 13 of a.csv {OPEN}")
    assert found == [(text, label) for text, _, label in (row.partition(",") for row in rows)]


LONG = "\n".join(f"line {i}, at {i}" if i % 7 == 0 else f"line {i}" for i in range(150))
MEANT = {
    "reviews among rows of a line": ("text", [*ONE_COLUMN, "Dear sir\n\nthanks", "two\nlines", "a\nb\nc"] * 3),
    "a long one with commas": ("text", [*ONE_COLUMN, LONG]),
    "a long one with blank lines": ("text", [*ONE_COLUMN, "\n\n".join(ONE_COLUMN)]),
    "long ones among themselves": ("text", ["\n".join(f"step {k} of {i}" for k in range(150)) for i in range(40)]),
    "beside a column that repeats": (
        "text,channel",
        [*ONE_COLUMN, "Dear, sir\nYours, John", "over 1,000 people\nliked it", "1,2\n3,4"],
    ),
    "beside numbers": (
        "text,id",
        [*ONE_COLUMN, "Good, but long\nI left, early", "so, so\nla, la\nlo, lo", "1,000 people\nliked it"],
    ),
    "beside two columns of numbers": (
        "text,id,time",
        [*ONE_COLUMN, "good, bad, ugly\none of three", "no, no, no\nand no, no, no\nand no"],
    ),
}


@pytest.mark.parametrize(("head", "texts"), MEANT.values(), ids=MEANT)
def test_values_of_several_lines_are_meant_where_no_label_stands_in_the_file(
    tmp_path: Path, head: str, texts: list[str]
) -> None:
    file = io.StringIO()
    values = {"text": texts, "channel": ["web", "app", "web"] * 200, "id": range(600), "time": range(600)}
    rows = zip(*(values[name] for name in head.split(",")), strict=False)
    csv.writer(file, lineterminator="\n").writerows([head.split(","), *rows])
    found = read(tmp_path / "label=positive/a.csv", file.getvalue())
    assert found == [(text, "positive") for text in texts]


def test_rows_of_several_lines_are_counted_and_an_unusual_one_is_doubted(tmp_path: Path) -> None:
    def said(name: str, texts: list[str]) -> lines.Spans:
        path = tmp_path / name / "label=positive/a.csv"
        path.parent.mkdir(parents=True)
        path.write_text("text\n" + "".join(f'"{text}"\n' if "\n" in text else f"{text}\n\n" for text in texts))
        spans = lines.Spans()
        for _ in reading.batches(source(path.parent.parent), reading.files(source(path.parent.parent)), spans):
            pass
        assert spans.rows == len(texts)
        return spans

    flat = said("flat", ONE_COLUMN)
    assert (flat.sentence, flat.unusual) == ("", False)
    few = said("few", [*ONE_COLUMN, "a\nb\nc", "d\n\ne\nf", "g\nh"])
    assert few.sentence == "3 of 303 rows span several lines: row 302 of a.csv 4, no other more than 3"
    assert not few.unusual
    swallowed = said("swallowed", [*ONE_COLUMN[:10], "\n".join(ONE_COLUMN[10:100]), *ONE_COLUMN[100:]])
    assert swallowed.unusual
    assert swallowed.sentence.startswith("1 of 211 rows spans several lines: row 11 of a.csv 90, no other more than 1;")
    assert "write `quoting: none`" in swallowed.sentence
    assert said("two", [*ONE_COLUMN, LONG, LONG[:-400]]).unusual
    assert not said("all", [LONG] * 20).unusual


def test_a_line_that_is_in_no_row_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(*arguments: Any) -> Any:
        found = rows(*arguments)
        return type(found)(*(values[:-1] for values in found[:-1]), found.rest)

    rows = delimited._rows
    assert read(tmp_path / "a.csv", 'text,label\n"a\nb",positive\n\nc,negative')[1] == ("c", "negative")
    monkeypatch.setattr(delimited, "_rows", lossy)
    monkeypatch.setattr(delimited, "_header", lambda file, form: (["text", "label"], file.read(), True))
    with pytest.raises(BadInput, match="4 lines follow its header, and its rows have 3"):
        read(tmp_path / "a.csv", '"a\nb",positive\n\nc,negative')


def test_quotes_inside_of_values_are_characters(tmp_path: Path) -> None:
    rows = ['he said "no",positive', '5" disk,positive', '"big" film,positive', '"in, ""quotes""",negative']
    texts = ['he said "no"', '5" disk', "big film", 'in, "quotes"']
    found = read(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    assert [text for text, _ in found] == texts


def test_an_open_quote_is_found_in_a_column_that_nobody_reads(tmp_path: Path) -> None:
    rows = ['a,positive,"note', "b,negative,", "c,positive,", 'd,negative,12"']
    found = read(tmp_path / "a.csv", "\n".join(["text,label,note", *rows]))
    assert found == [
        ('a,positive,"note', f"row 1 of a.csv {OPEN}"),
        ("b", "negative"),
        ("c", "positive"),
        ("d", "negative"),
    ]


HEADERS = {
    'text,"label,channel\na,positive,web\n': f"cannot be read: its header {OPEN}",
    'text,"label\na,positive\nb,"x",y\n': f"cannot be read: its header {OPEN}",
    "\r\n\n": "has no column 'text'",
    "text,label".encode("utf-16-le").decode(): "holds zero bytes; is it UTF-16?",
    "text;label\na;positive\n": "has no column 'text'; it has 'text;label'",
    "text,label,text\na,positive,b\n": "has the column 'text' 2 times",
    f"text,{'x' * 200_000}\na,b\n": "its header is not a row of names: field larger than field limit",
}


@pytest.mark.parametrize(("content", "complaint"), HEADERS.items(), ids=range(len(HEADERS)))
def test_an_odd_header_is_an_error_that_names_the_file(tmp_path: Path, content: str, complaint: str) -> None:
    with pytest.raises(BadInput) as raised:
        read(tmp_path / "a.csv", content)
    assert complaint in raised.value.what
    assert raised.value.where == str(tmp_path / "a.csv")


def test_columns_that_nobody_reads_may_have_any_name(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "\ufeff\ntext,x,x,,label\na,1,2,3,positive\n") == [("a", "positive")]


@pytest.mark.parametrize("block", [300, 32 << 20])
def test_types_of_json_come_from_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    early = [{"text": "a", "label": None}] * 1100
    late = [{"text": "b", "label": 1}] * 1200
    odd = [{"text": "c", "label": "1"}, {"text": 5, "label": 1}, {"text": "d"}]
    found = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, [*early, *odd, *late])))
    assert found[:1100] == [("a", None)] * 1100
    assert found[1103:] == [("b", "1")] * 1200
    assert [label for _, label in found[1100:1103]] == [
        "1",
        "row 1102 of a.jsonl has int in the column 'text', where most rows have text",
        None,
    ]


def test_a_column_may_come_late_in_a_file_of_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "a"}] * 1500 + [{"text": "b", "label": "positive"}] + [{"text": "c", "label": None}]
    assert read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))[-2:] == [("b", "positive"), ("c", None)]
    rows[-2:] = [{"text": "b", "meta": {"label": 1}}]
    with pytest.raises(BadInput, match="has no column 'label'"):
        read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))


MIXED = {
    "text and numbers": [*["0", "1"] * 30, *[0, 1] * 25],
    "numbers and text": [*["0", "1"] * 25, *[0, 1] * 30],
    "whole floats": [*[1] * 40, *[1.0] * 10, "1"],
    "more whole floats": [*[1] * 10, *[1.0] * 40, "1"],
    "text, numbers and whole floats": ["a", *["1"] * 40, *[1] * 30, *[1.0] * 20, None],
}


@pytest.mark.parametrize("labels", MIXED.values(), ids=MIXED)
def test_labels_and_slices_of_json_count_by_their_text(tmp_path: Path, labels: list[Any]) -> None:
    rows = [{"text": f"é{i}", "label": label, "s": label, "more": {"a": i}} for i, label in enumerate(labels)]
    columns = Columns(text="text", label="label", slices=("s",))
    content = "\n".join(json.dumps(row, ensure_ascii=bool(i % 2)) for i, row in enumerate(rows))
    found = read(tmp_path / "a.jsonl", content, columns=columns)
    meant = [None if label is None else str(label).removesuffix(".0") for label in labels]
    assert found == [(f"é{i}", label) for i, label in enumerate(meant)]


@pytest.mark.parametrize(
    "odd",
    [
        '{"text": "b", "label": "01"}',
        '{"text": "b", "label": 1.5}',
        '{"text": "b", "label": 1e300}',
        '{"text": "b", "label": true}',
        '{"text": 5, "label": "1"}',
        '{"text": "b", "label": "1", "text": "c"}',
        '[["text", "b"], ["label", 1]]',
    ],
)
def test_other_values_than_most_rows_have_stay_malformed(tmp_path: Path, odd: str) -> None:
    found = read(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n' * 9 + odd)
    assert found[:9] == [("a", "1")] * 9
    assert found[9][0] == odd
    assert (found[9][1] or "").startswith("row 10 of a.jsonl ")


REASONS = {
    '{"text": "b", "label": "x", "text": "c"}': "cannot be parsed: the column 'text' was specified twice",
    '{"text": "b", "label": "\\ud83d"}': "cannot be parsed: the surrogate pair in string is invalid",
    '{"text": "b\0", "label": "x"}': "is not JSON: Invalid control character at character 12",
}


@pytest.mark.parametrize(("line", "why"), REASONS.items())
def test_why_a_line_of_json_is_malformed_is_a_sentence(tmp_path: Path, line: str, why: str) -> None:
    found = read(tmp_path / "a.jsonl", '{"text": "a", "label": "positive"}\n' * 3 + line)
    assert found[3] == (line, f"row 4 of a.jsonl {why}")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n \n\n"), ("a.jsonl", "{}\n"), ("a.csv", "\n\r\n")])
def test_a_file_without_any_column_says_so(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(BadInput) as raised:
        read(tmp_path / name, content)
    assert raised.value.what == "has no column 'text'; it has none"


def test_numbers_too_long_for_python_are_malformed(tmp_path: Path) -> None:
    rows = ['{"text": "a", "label": "positive"}'] * 3 + ['{"text": "b", "label": ' + "9" * 5000 + "}"]
    assert [(label or "")[:8] for _, label in read(tmp_path / "a.jsonl", "\n".join(rows))] == ["positive"] * 3 + [
        "row 4 of"
    ]


def test_the_digest_covers_what_is_read_of_paths_and_no_more(tmp_path: Path) -> None:
    content = "text\na,b\nc,d\n"

    def digest(name: str) -> str:
        read_from = tmp_path / name
        read_from.parent.mkdir(parents=True)
        read_from.write_text(content)
        return reading.digest(source(tmp_path / name.partition("/")[0]))

    first = digest("one/label=negative/a.csv")
    assert digest("two/label=negative/b.csv") == first, "another root, another file name"
    assert digest("three/label=negative/month=5/a.csv") == first, "a column that nobody reads"
    assert digest("four/label=positive/a.csv") != first
    assert digest("five/label=negative/a.tsv") != first, "the same bytes are other rows"
