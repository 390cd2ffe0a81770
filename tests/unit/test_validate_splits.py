"""A row keeps its split for ever, and near-duplicates never straddle splits: properties of the freezing of rows."""

from __future__ import annotations

import itertools
import random
import re
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validate import freeze, rows
from components.validate import text as texts
from regraft.parts import Splits
from regraft.rows import digests, tidy
from regraft.tasks import text_classification as task
from regraft.tasks.text_classification.recipe import Columns, Data

ROOT = Path(__file__).parents[2]
LABELS = ("negative", "positive")
Row = tuple[str, str]


def frozen(batches: list[list[Row]], *, splits: Splits | None = None, source_bytes: int = 0) -> dict[Row, str]:
    """The split of each row that is not left out."""
    data = Data(
        source="x",
        columns=Columns(text="text", label="label"),
        labels=LABELS,
        splits=splits or Splits(dev=0.25, holdout=0.25),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "buckets").mkdir()
        buckets = freeze.Buckets(folder / "buckets", source_bytes, task.ROWS.target)
        quarantine = freeze.Parquet(folder / "quarantine.parquet")
        for batch in batches:
            table = pa.table(
                {
                    "text": pa.array([text.encode() for text, _ in batch], pa.binary()),
                    "label": pa.array([label for _, label in batch], pa.string()),
                    "malformed": pa.nulls(len(batch), pa.string()),
                    "file": pa.array([1] * len(batch), pa.int32()),
                    "row": pa.array(range(len(batch)), pa.int64()),
                }
            )
            good, bad, _ = rows.judge("text-classification", table, data, None, None)
            buckets.add(good)
            quarantine.add(bad)
        freeze.freeze(task, data, buckets, out=folder, scratch=folder, quarantine=quarantine, sample=10)
        quarantine.close()
        found = {}
        for split in rows.SPLITS:
            for row in pq.read_table(folder / f"{split}.parquet").to_pylist():
                assert (row["text"], LABELS[row["label"]]) not in found
                found[row["text"], LABELS[row["label"]]] = split
    return found


WORDS = ["plot", "music", "actor", "scene", "dull", "bright", "slow", "Ça", "naïve", "映画", "7", "don't"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
ROWS = st.tuples(SENTENCES | st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(LABELS))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), st.lists(ROWS, max_size=12), st.randoms(use_true_random=False))
def test_a_row_keeps_its_split_whatever_other_rows_order_and_files(
    some: list[Row], more: list[Row], chance: random.Random
) -> None:
    alone = {row: frozen([[row]]).get(row) for row in {*some}}
    mixed = [*some, *more]
    chance.shuffle(mixed)
    cut = chance.randrange(len(mixed) + 1)
    together = frozen([mixed[:cut], mixed[cut:]])
    for row in some:
        assert together.get(row, alone[row]) == alone[row]


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=2, max_size=30))
def test_no_two_rows_that_share_a_near_duplicate_key_are_in_different_splits(some: list[Row]) -> None:
    found = frozen([some])
    keys = texts.bands(texts.words(tidy(pa.array([text for text, _ in found], pa.string()))))
    splits = list(found.values())
    for one, other in itertools.combinations(range(len(splits)), 2):
        if (keys[one] == keys[other]).any():
            assert splits[one] == splits[other]


@settings(max_examples=40, deadline=None)
@given(SENTENCES, SENTENCES)
def test_case_punctuation_numbers_and_space_never_move_a_text(text: str, filler: str) -> None:
    row, padded = f"{text} {filler}", f"  {text.upper()},\u00a0 {filler.replace('7', '8')}!? "
    (split,) = frozen([[(row, "negative")]]).values()
    (same,) = frozen([[(padded, "positive")]]).values()
    assert split == same


def reviews() -> list[str]:
    """Texts that have few words in common."""
    many = ["".join(letters) for letters in itertools.product("bdfgklmnprst", "aeiou\u00e9\u00fc", "bdgklmnrst")]
    return [" ".join(random.Random(i).choices(many, k=24)) for i in range(400)]


@pytest.mark.parametrize(
    "change",
    [
        lambda words, k: [*words[:k], "zebra", *words[k + 1 :]],
        lambda words, k: [*words[:k], "zebra", *words[k:]],
        lambda words, k: [*words[:k], *words[k + 1 :]],
    ],
    ids=["replaced", "added", "left out"],
)
def test_texts_that_differ_in_one_word_are_recognised(change: Callable[[list[str], int], list[str]]) -> None:
    plain = reviews()
    changed = [" ".join(change(text.split(), i % 24)) for i, text in enumerate(plain)]
    one, other = (texts.bands(texts.words(tidy(pa.array(some)))) for some in (plain, changed))
    assert (one == other).any(axis=1).mean() > 0.95
    assert not (one == other[::-1]).any()


def test_the_row_in_the_higher_split_stays_and_the_other_is_left_out() -> None:
    plain = reviews()
    changed = [" ".join([*text.split()[:-1], "zebra"]) for text in plain]
    before = frozen([[(text, "negative") for text in plain]])
    after = frozen([[(text, "negative") for text in [*plain, *changed]]])
    order = {split: i for i, split in enumerate(rows.SPLITS)}
    left_out = [row for row in before if row not in after]
    assert left_out
    for text, _ in left_out:
        other = changed[plain.index(text)]
        assert order[after[other, "negative"]] > order[before[text, "negative"]]


def test_a_larger_holdout_takes_rows_but_gives_none_back() -> None:
    some = [(text, "negative") for text in reviews()]
    small, large = (frozen([some], splits=Splits(dev=0.1, holdout=share)) for share in (0.1, 0.4))
    assert {row for row in small if small[row] == "holdout"} <= {row for row in large if large[row] == "holdout"}
    shares = {split: sum(found == split for found in large.values()) / len(large) for split in rows.SPLITS}
    assert shares == {
        "train": pytest.approx(0.5, abs=0.1),
        "dev": pytest.approx(0.1, abs=0.05),
        "holdout": pytest.approx(0.4, abs=0.1),
    }


def test_the_number_of_buckets_does_not_show() -> None:
    some = [(text, "negative") for text in reviews()]
    assert list(frozen([some])) == list(frozen([some], source_bytes=freeze.LARGE))


def test_the_split_of_a_text_is_the_same_as_ever() -> None:
    """Written down, as another hash or another normal form would move the rows of every model."""
    keys = texts.words(tidy(pa.array([" A fine   film!", "e\u0301te\u0301"]))).spelled
    assert keys.to_pylist() == ["a fine film", "\u00e9t\u00e9"]
    assert texts.chances(keys).tolist() == [0.7295961973996248, 0.7382972473453007]
    digest = "f4e8ecda29af32295f23fe9bcb35b8b8b97f36be5b0358d4f01deadd2f41e18a"
    assert digests(pa.array(["positive\na fine film"])) == [digest]


@pytest.mark.parametrize(
    ("found", "kinds"),
    [
        ("write to jo.doe+x@mail.example.org now", {"e-mail"}),
        ("card 4111 1111 1111 1111", {"card"}),
        ("card 4111 1111 1111 1112", set()),
        ("IBAN DE89 3704 0044 0532 0130 00", {"iban"}),
        ("IBAN DE88 3704 0044 0532 0130 00", set()),
        ("from 192.168.10.255 at noon", {"ip"}),
        ("version 1.2.3.400", set()),
        ("call +49 30 1234567", {"phone"}),
        ("call (212) 555-0142 or 212-555-0142", {"phone"}),
        ("ssn 078-05-1120", {"ssn"}),
        ("released 1999-2001, 10 000 000 viewers, 7/10", set()),
        ("@home with 3 @ signs", set()),
    ],
)
def test_personal_data_is_told_from_numbers(found: str, kinds: set[str]) -> None:
    counts = texts.personal(pa.array(["nothing here", found]))
    assert {kind for kind, n in counts.items() if n and kind != "any"} == kinds
    assert counts["any"] == bool(kinds)


@pytest.mark.parametrize("pattern", texts.PII.values(), ids=texts.PII)
def test_looking_for_personal_data_is_linear_in_the_text(pattern: re.Pattern[str]) -> None:
    head, at, tail = pattern.pattern.partition("@")
    assert re._parser.parse(head).getwidth()[1] < 100, "what is tried from one place is bounded"
    unbounded = re.findall(r"(\[[^]]*\]|.)[*+]", tail) if at else []
    assert all(piece == ")" or not re.match(piece, "@") for piece in unbounded), "or ends before the next @"


@pytest.mark.parametrize("long", ["x" * 200_000 + "@", "a@" + "b." * 200_000 + "1", "1." * 200_000 + "@"])
def test_one_endless_text_without_an_address_is_searched_for_one(long: str) -> None:
    assert texts.personal(pa.array([long] * 3))["any"] == 0  # took hours
    assert texts.personal(pa.array([long + " x" * 9_000 + "@example.org"]))["e-mail"] == 1


def test_a_long_run_of_marks_is_sorted_before_python_normalizes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        "\u0301\u0f73" * 40,
        "a" + "\u0301\u0327" * 40,
        "e" + "\u0327\u0488\u0301\u0344\u0316" * 40 + "z",
        "\uac00\u0f73\u0301" * 40,
    ]
    meant = [unicodedata.normalize("NFC", run) for run in runs]
    normalize, handed = unicodedata.normalize, []

    def seen(form: Any, value: str) -> str:
        handed.append([unicodedata.combining(character) for character in value])
        return normalize(form, value)

    monkeypatch.setattr(unicodedata, "normalize", seen)
    assert tidy(pa.array(runs)).to_pylist() == meant
    assert not any(before > after > 0 for classes in handed for before, after in itertools.pairwise(classes))


@pytest.mark.parametrize(
    "good",
    ["plain", "café — “naïve” \u2018ça\u2019 Ångström", "наш фильм", "映画が好き", "line\nbreak\ttab", "👍🏽", "Ã"],
)
def test_sound_text_in_any_script_is_not_called_damaged(good: str) -> None:
    assert not texts.damaged(pa.array([good])).any()


@pytest.mark.parametrize("text", ["café — “naïve”", "Größe", "c\u2019est très bien", "наш фильм"])
@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_utf_8_that_was_read_in_another_encoding_is_called_damaged(text: str, wrong: str) -> None:
    mangled = text.encode().decode(wrong, "replace")
    assert texts.damaged(pa.array(["fine", mangled, "fine"])).tolist() == [False, True, False]


def test_no_row_of_the_shipped_example_is_called_damaged() -> None:
    folder = ROOT / ".cache/data/movie-reviews"
    if not folder.is_dir():
        pytest.skip("the example's data is not here; make data fetches it")
    text = ds.dataset(folder).to_table()["text"].combine_chunks()
    assert not texts.damaged(text).any()


@given(
    st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from(" \t\n\x1c\u00a0aZ7!é"), min_size=1), max_size=30)
)
@settings(deadline=None)
def test_what_is_done_to_many_texts_at_once_is_what_is_done_to_each(some: list[str]) -> None:
    together = tidy(pa.array(some, pa.string()))
    alone = [unicodedata.normalize("NFC", text) for text in some]
    assert together.to_pylist() == [" ".join(re.split(r"\s+", text.strip())) for text in alone]
    filled = together.filter(pa.array([bool(text) for text in together.to_pylist()], pa.bool_()))
    words = texts.words(filled)
    assert words.spelled.to_pylist() == [texts.words(filled.slice(i, 1)).spelled[0].as_py() for i in range(len(filled))]
    assert " ".join(words.coded.to_pylist()) == " ".join(words.spelled.to_pylist())
    assert words.offsets.tolist() == [
        0,
        *itertools.accumulate(len(text.split(" ")) for text in words.spelled.to_pylist()),
    ]


def test_how_many_texts_are_hashed_at_a_time_does_not_show_in_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [" ".join(f"w{(i * k) % 97}" for k in range(1, i % 40 + 2)) for i in range(300)]
    many += ["long " * 500, "last"]
    whole = texts.bands(texts.words(pa.array(many)))
    monkeypatch.setattr(texts, "CACHED", 64)
    assert (texts.bands(texts.words(pa.array(many))) == whole).all()
    assert (texts.bands(texts.words(pa.array(many).slice(7))) == whole[7:]).all()
