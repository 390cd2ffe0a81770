"""Rows of the holdout that share words in a row with rows to train on: which count, which do not, and what is shown."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.validate import overlap
from components.validate import text as texts
from regraft.rows import tidy

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ru", "so", "ta") for b in "bdfgklmnprstvz"]
SYSTEM = "You are the assistant of a shop for shoes, be brief and be polite to all who ask you."


def sentence(seed: int, count: int = 24) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def spoken(rows: Sequence[str]) -> overlap.Spoken:
    said = pa.array(rows, pa.string())
    words = texts.words(tidy(said))
    return overlap.Spoken(words.hashed.astype(np.uint32), words.offsets.astype(np.int64), said)


Find = Callable[..., overlap.Overlap]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    def found(train: Sequence[str], holdout: Sequence[str], batch: int = 7) -> overlap.Overlap:
        path = tmp_path / "train.arrow"
        schema = pa.schema({"words": pa.binary(), "said": pa.string()})
        with pa.ipc.new_file(str(path), schema) as file:
            for start in range(0, len(train), batch):
                part = spoken(train[start : start + batch])
                edges = part.offsets.tolist()
                words = [part.hashed[a:b].tobytes() for a, b in itertools.pairwise(edges)]
                file.write_table(pa.table([words, part.said], schema))
        return overlap.find(path, iter([spoken(holdout)]))

    return found


def test_a_row_that_quotes_a_row_to_train_on_is_found_and_the_words_in_common_are_marked(find: Find) -> None:
    train = [sentence(seed) for seed in range(40)]
    quoted = " ".join(train[23].split()[4:18])
    of = find(train, [sentence(99), f"{sentence(98, 9)}: {quoted.upper()}! {sentence(97, 9)}", sentence(96)])
    assert (of.n, of.rows, of.found.tolist()) == (13, 3, [1])
    ((row, other),) = of.shown
    assert f"⟦{quoted.upper()}⟧" in row
    assert f"⟦{quoted}⟧" in other


def test_fewer_words_in_a_row_than_count_are_nothing(find: Find) -> None:
    train = [sentence(seed) for seed in range(40)]
    few = " ".join(train[3].split()[2:14])
    assert find(train, [f"before this {few} after this"]).found.tolist() == []


@pytest.mark.parametrize(("words", "n"), [(4, 8), (8, 8), (11, 11), (13, 13), (50, 13)])
def test_how_many_words_count_follows_from_how_long_rows_are(find: Find, words: int, n: int) -> None:
    holdout = [sentence(seed, words) for seed in range(40)]
    assert find([sentence(99)], holdout).n == n


def test_what_many_conversations_are_told_first_is_no_overlap_nor_what_reaches_into_it(find: Find) -> None:
    train = [f"{SYSTEM} Where is {sentence(seed)}" for seed in range(40)]
    holdout = [f"{SYSTEM} Where is {sentence(100 + seed)}" for seed in range(10)]
    told_the_same = f"{SYSTEM} Where is {' '.join(train[5].split()[19:24])} {sentence(200)}"
    quoting = f"{SYSTEM} Where is {' '.join(train[5].split()[19:])}"
    assert find(train, [*holdout, told_the_same, quoting]).found.tolist() == [11]


def test_a_row_to_train_on_that_repeats_itself_is_one_row(find: Find) -> None:
    once = sentence(1, 13)
    assert find([f"{once}. " * 20], [once]).found.tolist() == [0]


def test_in_chinese_characters_count(find: Find) -> None:
    train = ["昨天在北京举行的会议上代表们讨论了新的环境保护法案", "这部电影的音乐非常好听但是故事太长了我不喜欢"]
    of = find(train, ["据报道在北京举行的会议上代表们讨论了很多问题", "我今天早上去公园跑步然后回家吃早饭看书"])
    assert of.found.tolist() == [0]
    assert "⟦在北京举行的会议上代表们讨论了⟧" in of.shown[0][0]
    assert "⟦在北京举行的会议上代表们讨论了⟧" in of.shown[0][1]


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        ("jane.doe@mail.example.org", "jim.doe@mail.example.org", "e-mail"),
        ("jane.doe@mail.example.org", "jane.doe@mail.example.com", "e-mail"),
        ("+49 30 901820 77", "+49 30 901821 78", "phone"),
        ("+4930 901820 77", "+49 30 901821 77", "phone"),
        ("4111 1111 1111 1111", "4111111111111111", "card"),
    ],
)
def test_personal_data_is_shown_as_its_kind_also_where_the_words_in_common_begin_or_end_in_it(
    find: Find, ours: str, theirs: str, kind: str
) -> None:
    before, after = sentence(1, 20), sentence(2, 20)
    of = find([f"{before} {theirs} {after}"], [f"{before} {ours} {after}"])
    assert of.found.tolist() == [0]
    for text in of.shown[0]:
        assert f"[{kind}]" in text
        assert text.count("⟦") == text.count("⟧") == 1
        assert not any(piece in text for piece in ("doe", "example", "1111", "9018"))


def test_at_most_ten_are_shown_and_the_ends_of_long_rows_are_left_out(find: Find) -> None:
    train = [sentence(seed, 400) for seed in range(15)]
    of = find(train, [f"{sentence(100 + seed, 300)} {text}" for seed, text in enumerate(train)])
    assert len(of.found) == 15
    assert len(of.shown) == 10
    assert all(len(row) < 800 and row.startswith("…") for row, _ in of.shown)


def test_of_a_large_holdout_as_many_rows_are_looked_at_as_memory_is_meant_for(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "MOST", 100)
    rows = [sentence(seed) for seed in range(40)]
    of = find(rows, rows)
    assert (of.rows, of.among, len(of.found)) == (4, 40, 4)


def test_how_many_words_are_looked_through_at_a_time_does_not_show(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [sentence(seed, 1 + seed % 40) for seed in range(120)]
    holdout = [f"{text} {sentence(500 + seed, 5)}" for seed, text in enumerate(train[::3])]
    whole = find(train, holdout)
    monkeypatch.setattr(overlap, "AT_ONCE", 16)
    parts = find(train, holdout, batch=1)
    assert whole.found.tolist() == parts.found.tolist()
    assert whole.shown == parts.shown
    assert 0 < len(whole.found) < len(holdout)


@pytest.mark.parametrize(("train", "holdout"), [([], []), ([], ["a b c"]), (["a b c"], []), (["a"], ["b"])])
def test_hardly_any_rows_are_no_overlap(find: Find, train: list[str], holdout: list[str]) -> None:
    assert find(train, holdout).found.tolist() == []
