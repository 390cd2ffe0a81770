"""Rows that models are judged by and that have many words in a row in common with rows to train on.

The rule is that of Brown et al., 2020, Language Models are Few-Shot Learners, appendix C: any `n` words in a row count,
letters' case and punctuation aside, where n is the 5th percentile of the rows' lengths, 8 at least and 13 at most. What
more than ten rows to train on have is a turn of phrase, or told at the beginning of each conversation, and does not
(Smith et al., 2022, Using DeepSpeed and Megatron to Train Megatron-Turing NLG 530B); nor does what reaches into such.

Words are hashes, and `MOST` of those that are sought are in memory, whatever the number of rows to train on.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.validate import text as texts
from components.validate.rows import spoken
from regraft import reading, tasks
from regraft.exchange import Check
from regraft.parts import Data, Recipe
from regraft.rows import Source

SHORTEST, LONGEST = 8, 13
COMMON = 10
MOST = 2_000_000
"""Words of a set that are sought; of a larger holdout, its first rows: in the order of digests a random sample."""
AT_ONCE = 1 << 20
"""Words to train on that are looked through at a time, or those of one row."""
SHOWN = 10
AROUND = 240
"""Characters that are shown of a row in which the words in common cannot be marked."""
LOOKED = 20_000
"""Characters at the beginning of a row in which they are sought to be marked."""
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""How Unicode names letters of scripts whose characters are each a word, as for `text.words`."""
HOLDOUT = "holdout"
_MIX = 0x9E3779B97F4A7C15
_BITS = 24


class Spoken(NamedTuple):
    """Some rows: the hash of each word, uint32; the first word of each row, and the end; what was said."""

    hashed: Any
    offsets: Any
    said: Any


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What a set of rows that models are judged by has in common with the rows to train on.

    Attributes:
        rows: how many were looked at.
        among: how many there are; as many, or more than `rows`.
        n: words in a row that count.
        found: positions of those that have such words in common.
        shown: of some of them, that row and one to train on, in excerpts with those words between MARKS.
    """

    rows: int
    among: int
    n: int
    found: Any
    shown: Sequence[tuple[str, str]]


def frozen(path: Path) -> Iterator[Spoken]:
    """Rows of a file that `freeze` wrote."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as batches:
        for number in range(batches.num_record_batches):
            batch = batches.get_batch(number)
            offsets, content = _bytes(batch.column("words"))
            yield Spoken(content, offsets, batch.column("said"))


def _bytes(column: Any) -> tuple[Any, Any]:
    """Offsets and hashes of a column of words."""
    import numpy as np

    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset :][: len(column) + 1]
    whole = column.buffers()[2]
    content = np.zeros(0, np.uint32) if whole is None else np.frombuffer(whole, np.uint32)
    words = offsets.astype(np.int64) // 4
    return words - words[0], content[words[0] : words[-1]]


def anchor(recipe: Recipe, source: Source) -> Iterator[Spoken]:
    """Rows of the recipe's anchor set; evaluate names those that are none."""
    import numpy as np
    import pyarrow as pa

    for table, _ in reading.batches(source, reading.files(source)):
        read, neat = tasks.read(recipe.task, table, recipe.data)
        good = ~np.any([np.broadcast_to(applies, len(neat)) for _, applies in read.problems], axis=0)
        said = spoken(read, neat).filter(pa.array(good))
        words = texts.words(said)
        yield Spoken(words.hashed.astype(np.uint32), words.offsets.astype(np.int64), said)


def of(recipe: Recipe, scratch: Path) -> dict[str, Overlap]:
    """What the holdout and the recipe's anchor set, where it has one, have in common with the rows to train on.

    Args:
        scratch: the folder with what `freeze` wrote.
    """
    sets = {HOLDOUT: frozen(scratch / f"{HOLDOUT}.arrow")}
    if source := tasks.anchor(recipe):
        sets["anchor set"] = anchor(recipe, source)
    return {name: find(scratch / "train.arrow", rows) for name, rows in sets.items()}


def find(train: Path, rows: Iterator[Spoken]) -> Overlap:
    """What rows have in common with the rows to train on, of a file that `freeze` wrote."""
    import numpy as np

    sought, among = _first(rows)
    n = SHORTEST
    if len(sought.said):
        n = int(np.clip(np.percentile(np.diff(sought.offsets), 5), SHORTEST, LONGEST))
    keys, starts = _runs(sought.hashed, sought.offsets, n)
    whole = np.unique(keys)
    counts, earliest = _seen(train, whole, n)
    place = np.searchsorted(whole, keys)
    often = starts[counts[place] > COMMON]
    ends = len(sought.hashed) + 1
    edges = np.bincount(often, minlength=ends) - np.bincount(often + n, minlength=ends)
    phrases = np.append(0, np.cumsum(np.cumsum(edges[:-1]) > 0))  # words up to each that are part of what is common
    hits = np.flatnonzero((counts[place] > 0) & (phrases[starts + n] == phrases[starts]))
    found, at = np.unique(np.searchsorted(sought.offsets, starts[hits], side="right") - 1, return_index=True)
    first = hits[at[:SHOWN]]
    others = _said(train, earliest[place[first]].tolist())
    pairs = zip(found.tolist(), (starts[first] - sought.offsets[found[:SHOWN]]).tolist(), others, strict=False)
    shown = [_pair(sought.said[row].as_py(), other, start, n) for row, start, other in pairs]
    return Overlap(rows=len(sought.said), among=among, n=n, found=found, shown=shown)


def _first(rows: Iterator[Spoken]) -> tuple[Spoken, int]:
    """The first rows, of MOST words in all, and how many rows there are."""
    import numpy as np
    import pyarrow as pa

    hashed, lengths, said = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], [pa.array([], pa.string())]
    room, among = MOST, 0
    for part in rows:
        among += len(part.said)
        count = int(np.searchsorted(part.offsets, room, side="right")) - 1 if room else 0
        hashed.append(part.hashed[: part.offsets[count]])
        lengths.append(np.diff(part.offsets[: count + 1]))
        said.append(part.said[:count])
        room = room - int(part.offsets[count]) if count == len(part.said) else 0
    offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
    return Spoken(np.concatenate(hashed), offsets, pa.chunked_array(said)), among


def _runs(hashed: Any, offsets: Any, n: int) -> tuple[Any, Any]:
    """A hash of each n words in a row that are of one row, and where they begin."""
    import numpy as np

    ends = np.repeat(offsets[1:], np.diff(offsets))
    starts = np.flatnonzero(np.arange(n, n + len(hashed)) <= ends)
    keys = np.zeros(max(0, len(hashed) - n + 1), dtype=np.uint64)
    for number in range(n if len(keys) else 0):
        keys *= np.uint64(_MIX)
        keys += hashed[number : number + len(keys)]
    keys ^= keys >> np.uint64(32)
    keys *= np.uint64(0xD6E8FEB86659FD93)
    return keys[starts], starts


def _seen(train: Path, sought: Any, n: int) -> tuple[Any, Any]:
    """How many rows to train on have each of some sorted hashes of n words, and the first of these rows."""
    import numpy as np

    counts, first = np.zeros(len(sought), np.int32), np.full(len(sought), np.iinfo(np.int64).max)
    likely = np.zeros(1 << _BITS, dtype=bool)  # fits a cache, which the sorted hashes do not: most are not among them
    likely[sought >> np.uint64(64 - _BITS)] = True
    before = 0
    for part in frozen(train):
        edges = np.searchsorted(part.offsets, np.arange(0, part.offsets[-1], AT_ONCE))
        for begin, end in itertools.pairwise(np.unique(np.append(edges, len(part.said)))):
            offsets = part.offsets[begin : end + 1]
            keys, starts = _runs(part.hashed[offsets[0] : offsets[-1]], offsets - offsets[0], n)
            some = np.flatnonzero(likely[keys >> np.uint64(64 - _BITS)])
            place = np.searchsorted(sought, keys[some])
            same = sought[np.minimum(place, len(sought) - 1)] == keys[some] if len(sought) else np.zeros(0, bool)
            rows = np.searchsorted(offsets - offsets[0], starts[some[same]], side="right") - 1
            once = np.unique(place[same] * (end - begin) + rows)  # a row counts once, however often it says so
            np.add.at(counts, once // (end - begin), 1)
            np.minimum.at(first, once // (end - begin), before + begin + once % (end - begin))
        before += len(part.said)
    return counts, first


def _said(train: Path, rows: Sequence[int]) -> list[str]:
    """What some rows to train on say."""
    found, before = dict[int, str](), 0
    for part in frozen(train):
        found |= {row: part.said[row - before].as_py() for row in rows if 0 <= row - before < len(part.said)}
        before += len(part.said)
    return [found[row] for row in rows]


def _pair(text: str, other: str, start: int, n: int) -> tuple[str, str]:
    """Excerpts of two texts with all the words between MARKS that both have there.

    Args:
        start: the first of n words of the first text that the other has too.
    """
    ours, theirs = _words(text), _words(other)
    mine, yours = ([word for word, _, _ in of] for of in (ours, theirs))
    meant, i, j = mine[start : start + n], start, -1
    while j < 0 or yours[j : j + n] != meant:
        try:
            j = yours.index(meant[0], j + 1) if meant else 0
        except ValueError:  # it lies beyond what is looked at
            return texts.masked(text, AROUND), texts.masked(other, AROUND)
    while i and j and mine[i - 1] == yours[j - 1]:
        i, j = i - 1, j - 1
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(mine[i:], yours[j:], strict=False))
    last = sum(1 for _ in same) - 1
    return (
        texts.marked(text, ours[i][1], ours[i + last][2]),
        texts.marked(other, theirs[j][1], theirs[j + last][2]),
    )


def _words(text: str) -> list[tuple[str, int, int]]:
    """The words at the beginning of a text, as `text.words` has them, and where each is."""
    found, word, begin = list[tuple[str, int, int]](), "", 0
    for at, letter in enumerate(f"{text[:LOOKED]} "):
        kind = unicodedata.category(letter)[0]
        alone = kind in "LM" and unicodedata.name(letter, "").startswith(UNSPACED)
        if word and (kind not in "LMN" or alone):
            found.append((word, begin, at))
            word = ""
        if kind in "LMN":
            begin, word = (begin if word else at), word + ("0" if kind == "N" else letter.lower())
        if alone:
            found.append((word, begin, at + 1))
            word = ""
    return found


def checks(data: Data, found: Mapping[str, Overlap]) -> Iterator[Check]:
    """Have the rows that models are judged by long runs of words in common with the rows to train on?"""
    from components.validate.contract import share

    limit = data.contract.overlap
    for name, of in found.items():
        part, sample = share(len(of.found), of.rows), f" that are looked at, of {of.among:,}," * (of.rows < of.among)
        what = f"have {of.n} words in a row in common with a row of train"
        yield Check(
            name="overlap" if name == HOLDOUT else "anchor_overlap",
            key="data.contract.overlap.max",
            severity=limit.severity,
            observed=part,
            max=limit.max,
            rule=f"at most {limit.max:.1%} of the rows of the {name} {what}",
            sentence=f"{len(of.found):,} of {of.rows:,} rows of the {name}{sample} ({part:.1%}) {what}, at most "
            f"{limit.max:.1%} may",
        )


def document(found: Mapping[str, Overlap]) -> dict[str, Any]:
    """What validation.json says of it."""
    return {
        name: {
            "rows": of.rows,
            "of": of.among,
            "words": of.n,
            "overlapping": len(of.found),
            "shown": [{"row": row, "train": other} for row, other in of.shown],
        }
        for name, of in found.items()
    }
