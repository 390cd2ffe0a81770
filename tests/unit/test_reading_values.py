"""Columns that may hold anything: they are read as JSON text, whatever the format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft import reading
from regraft.errors import BadInput

ANYTHING = [
    [{"start": 0, "end": 4, "label": "Straße"}, {"start": 6, "end": 9, "label": "x"}],
    [],
    None,
    [{"start": 1, "end": 2, "label": None}],
]


def values(path: Path) -> list[tuple[str | None, str | None]]:
    """What is read of the column `found`, which may hold anything, and why a row is malformed."""
    columns: dict[str, Any] = {"text": ("text", "text"), "found": ("found", "value"), "slice.s": ("s", "name")}
    every = reading.Source(location=str(path), quoting="auto", columns=columns)
    rows = [row for table, _ in reading.batches(every, reading.files(every)) for row in table.to_pylist()]
    assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["found"], row["malformed"]) for row in rows]


def test_lists_and_objects_are_the_same_json_text_whatever_the_format(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "found": found, "s": i} for i, found in enumerate(ANYTHING)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name, ascii_only in (("a.jsonl", True), ("b.jsonl", False)):
        (tmp_path / name).write_text("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows))
    written = [None if found is None else json.dumps(found, ensure_ascii=False) for found in ANYTHING]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "found", "s"), *((f"t{i}", text, i) for i, text in enumerate(written))])
    for name in ("a.parquet", "a.jsonl", "b.jsonl"):
        assert values(tmp_path / name) == [(text, None) for text in written], name
    assert values(tmp_path / "a.csv") == [(text or "", None) for text in written], "CSV has no null"


def test_a_text_where_anything_may_stand_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "s": "", "found": "[1, 2]"}\n{"text": "a", "s": "", "found": "\\ud800"}'
    )
    assert values(tmp_path / "a.jsonl") == [("[1, 2]", None), ("?", None)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1]", "is not one JSON object"),
        ('{"text": "a"', "is not JSON: "),
        ('{"text": 5, "found": [], "s": ""}', "has int in the column 'text', where text is expected"),
        ('{"text": "a", "found": [], "s": [1]}', "has list in the column 's', where text is expected"),
        ('{"text": "a", "found": %s, "s": ""}' % ("[" * 100_000 + "]" * 100_000), "cannot be parsed"),
        ('{"text": "a", "found": %s, "s": ""}' % ("9" * 5000), "cannot be parsed"),
    ],
)
def test_a_malformed_line_beside_anything_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "b", "found": {{"a": "\\ud800"}}, "s": "x"}}\n{line}\n')
    sound, malformed = values(tmp_path / "a.jsonl")
    assert sound == ('{"a": "?"}', None)
    assert malformed[0] is None
    assert (malformed[1] or "").startswith(f"row 2 of a.jsonl {complaint}")


def test_anything_may_be_nested_as_deep_as_python_follows(tmp_path: Path) -> None:
    depths = range(800, 1050)
    deep = ['{"text": "a", "found": %s, "s": ""}' % ("[" * depth + "]" * depth) for depth in depths]
    (tmp_path / "a.jsonl").write_text("\n".join(deep))
    for depth, (found, why) in zip(depths, values(tmp_path / "a.jsonl"), strict=True):
        assert found == "[" * depth + "]" * depth or (why or "").endswith("cannot be parsed")


def test_bytes_where_json_is_expected_are_an_error_that_names_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "found": [[b"x"]], "s": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="in the column 'found', where lists, structs, text or numbers is expected"):
        values(tmp_path / "a.parquet")
