"""Whatever bytes a file holds, reading it ends with each of its rows read or named, or in a BadInput."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regraft import reading, tasks
from regraft.errors import BadInput
from regraft.reading import lines
from regraft.tasks.text_classification.recipe import Columns, Data

FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SNIPPETS = [
    *(b'"', b'""', b"\n", b"\r", b"\r\n", b",", b"\t", b"a", b"positive", b"text,label\n", b"text\tlabel\n", b"\0"),
    *(b"\xff", "\ufeff".encode(), b"negative\n", b'"a\nb"', b'"x,positive\ny"', b"{", b"}", b'{"text": "a"}\n', b" "),
    *(b'{"text": "a", "label": "positive"}\n', b'{"text": 1, "label": 2.5}\n', b'{"label": null}\n', b"null\n"),
    *(b'{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", b'{"label": ' + b"9" * 5000 + b', "text": "a"}\n', b"NaN"),
]
PIECES = st.lists(st.sampled_from(SNIPPETS) | st.binary(max_size=6), max_size=30).map(b"".join)


def read(
    name: str, content: bytes, block: int = 0, time: str | None = None, quoting: Any = "auto"
) -> list[dict[str, Any]]:
    """The rows of a file. Raises BadInput."""
    before = lines.BLOCK_BYTES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        columns = Columns(text="text", label="label", time=time)
        data = Data(source=str(path), columns=columns, labels=("negative", "positive"), quoting=quoting)
        source = tasks.source("text-classification", data, data.source)
        try:
            lines.BLOCK_BYTES = block or before
            return [
                row
                for table, _ in reading.batches(source, reading.files(source))
                for row in table.select(["text", "label", "malformed", "row"]).to_pylist()
            ]
        finally:
            lines.BLOCK_BYTES = before


def complaint_or_rows(*arguments: Any, **data: Any) -> Any:
    try:
        return read(*arguments, **data)
    except BadInput as error:
        return re.sub("/.*/", "", f"{error.where and error.what}")


@FEW
@given(PIECES, st.sampled_from([",", "\t"]), st.sampled_from(["auto", "minimal", "none"]))
@example(b'"a\r\n"b,positive\r\n', ",", "auto")
def test_each_line_of_a_table_is_in_one_row(content: bytes, delimiter: str, quoting: str) -> None:
    name = "a.csv" if delimiter == "," else "a.tsv"
    head = f"text{delimiter}label\n".encode()
    found = complaint_or_rows(name, head + content, quoting=quoting)
    if isinstance(found, str):
        return
    assert [row["row"] for row in found] == list(range(1, len(found) + 1))
    written = len([line for line in re.split(rb"\r\n|\r|\n", content) if line])
    if quoting == "none" or (quoting == "auto" and delimiter == "\t") or b'"' not in content:
        assert len(found) == written
    inside = sum(len(re.findall(rb"\r\n|\r|\n", (row["text"] or b"") + (row["label"] or "").encode())) for row in found)
    assert len(found) + inside >= written, "a line is in no row"


@FEW
@given(PIECES, st.sampled_from(["a.csv", "a.tsv", "a.jsonl"]), st.integers(64, 400))
@example(b'"a,positive\nb,positive\nc 12",positive\n"', "a.csv", 64)
def test_the_size_of_blocks_does_not_show(content: bytes, name: str, block: int) -> None:
    head = {"a.csv": b"text,label\n", "a.tsv": b"text\tlabel\n"}.get(name, b"")
    if max(map(len, content.split(b"\n")), default=0) >= 64 or content.count(b'"') > 20:
        return
    whole = complaint_or_rows(name, head + content)
    pieces = complaint_or_rows(name, head + content, block)
    if isinstance(whole, list) and isinstance(pieces, list):
        assert pieces == whole


@FEW
@given(
    st.lists(
        st.tuples(st.text("ab\",\n\t '", max_size=12), st.sampled_from(["negative", "positive"])),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_a_csv_writer_wrote_is_read_again(
    rows: list[tuple[str, str]], delimiter: str, terminator: str, quoting: Any
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=terminator, quoting=quoting)
    writer.writerows([("text", "label"), *rows])
    name = "a.csv" if delimiter == "," else "a.tsv"
    found = read(name, file.getvalue().encode(), quoting="minimal")
    assert [((row["text"] or b"").decode(), row["label"]) for row in found] == rows


@FEW
@given(PIECES, st.sampled_from(["a.csv", "a.csv.gz", "a.tsv.bz2", "a.jsonl", "a.jsonl.xz", "a.json", "a.parquet"]))
def test_any_bytes_end_in_rows_or_in_an_error_with_the_file(content: bytes, name: str) -> None:
    complaint_or_rows(name, content)


@FEW
@given(PIECES, st.integers(0, 200), st.binary(max_size=8))
def test_a_damaged_archive_is_an_error_or_has_its_rows(content: bytes, at: int, damage: bytes) -> None:
    for name, packed in (("a.csv.gz", gzip.compress(content)), ("a.csv.bz2", bz2.compress(content))):
        complaint_or_rows(name, packed[:at] + damage + packed[at + len(damage) :])
        complaint_or_rows(name, packed[:at])


@FEW
@given(st.lists(st.sampled_from([b'{"text": "a", "label": "positive"}', b'{"label": 5, "text": null}', *SNIPPETS])))
def test_each_line_of_json_lines_is_a_row(pieces: list[bytes]) -> None:
    content = b"\n".join(pieces)
    found = complaint_or_rows("a.jsonl", content)
    if isinstance(found, list):
        stripped = [line.strip() for line in content.removeprefix("\ufeff".encode()).split(b"\n")]
        assert [row["row"] for row in found] == [n for n, line in enumerate(stripped, start=1) if line]


KINDS = [
    *(
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.null(),
        pa.list_(pa.string()),
    ),
    *(pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.decimal128(5, 2), pa.dictionary(pa.int8(), pa.string())),
    *(
        pa.date32(),
        pa.timestamp("s"),
        pa.timestamp("ns", "Europe/Berlin"),
        pa.time64("us"),
        pa.struct({"a": pa.int8()}),
    ),
]
VALUES = (
    st.none() | st.sampled_from(["a", "negative", "2026-11-24"]) | st.text(max_size=5) | st.integers() | st.floats()
)


@FEW
@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.lists(VALUES, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), max_size=3),
)
def test_parquet_of_any_type_or_damaged_is_rows_or_an_error(
    text: Any, label: Any, time: Any, values: list[Any], damage: list[tuple[int, bytes]]
) -> None:
    file, columns = io.BytesIO(), {"text": text, "label": label, "time": time}
    pq.write_table(pa.table({name: of_kind(kind, values) for name, kind in columns.items()}), file)
    content = bytearray(file.getvalue())
    for at, piece in damage:
        content[at % len(content) : at % len(content) + len(piece)] = piece
    found = complaint_or_rows("a.parquet", bytes(content), time="time")
    if not damage and isinstance(found, list):
        assert len(found) == len(values)


def of_kind(kind: Any, values: list[Any]) -> Any:
    kept = []
    for value in values:
        try:
            kept.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            kept.append(None)
    return pa.array(kept, kind)


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize(
    "shape", ['{"text": %s, "label": "positive"}', '{"meta": %s, "label": "positive", "text": "a"}']
)
def test_json_may_be_nested_deeper_than_python_follows(depth: int, shape: str) -> None:
    deep = shape % ("[" * depth + "]" * depth)
    sound = [json.dumps({"text": "b", "label": "negative"})] * 3
    found = read("a.jsonl", "\n".join([deep, *sound, deep]).encode())
    assert [bool(row["malformed"]) for row in found] == ["meta" not in shape, False, False, False, "meta" not in shape]
