"""The profile of a data set, and how far another one has drifted from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.tally import distance

MOST_WORDS = 1_000_000
"""Words that are counted apart at least; beyond twice as many the rare ones are forgotten, to bound memory."""
KEPT_WORDS = 5_000
COMPARED_WORDS = 500
"""Words the drift of texts is measured on, the most frequent ones of the reference; all others count as one. More words
would measure chance: the distance of two samples of one source grows with the root of words / sample."""
NAMED_WORDS = 5
DAY = 24 * 3600 * 1_000_000
"""In microseconds."""
DAYS = 366
LENGTHS = tuple(dict.fromkeys(int(2 ** (step / 4)) for step in range(4 * 31)))
"""Lengths at which bins begin: each is a quarter of an octave, as far as whole numbers allow."""


class WordCounts:
    """How often each word occurs.

    Args:
        words: some of them.
        counts: how often each occurs.
    """

    def __init__(self, words: Any = (), counts: Any = ()) -> None:
        import pyarrow as pa

        self._table = pa.table({"word": pa.array(words, pa.string()), "count": pa.array(counts, pa.int64())})

    @property
    def total(self) -> int:
        """How often any word does."""
        import pyarrow.compute as pc

        return int(pc.sum(self._table["count"], min_count=0).as_py())

    def add(self, other: WordCounts) -> None:
        """Adds those of other texts; of too many words the rare ones are forgotten."""
        import pyarrow as pa

        self._table = pa.concat_tables([self._table, other._table])
        if len(self._table) > 2 * MOST_WORDS:
            self._table = self._most(MOST_WORDS)

    def most(self, number: int) -> dict[str, int]:
        """The most frequent words with their counts, the most frequent first; equally frequent ones by their names."""
        return dict(zip(*(column.to_pylist() for column in self._most(number).columns), strict=True))

    def _most(self, number: int) -> Any:
        summed = self._table.group_by("word", use_threads=False).aggregate([("count", "sum")])
        ordered = summed.rename_columns(["word", "count"]).sort_by([("count", "descending"), ("word", "ascending")])
        return ordered.slice(0, number).combine_chunks()


def profile(*, rows: int, counts: Mapping[str, int], languages: Mapping[str, int], words: WordCounts) -> dict[str, Any]:
    """What later runs compare with: counts of rows, of what the task counts, of languages and of frequent words."""
    return {
        "rows": rows,
        "counts": dict(counts),
        "languages": dict(languages),
        "words": words.most(KEPT_WORDS),
        "words_in_all": words.total,
    }


def lengths(values: Any) -> Any:
    """How many of some lengths, all above 0, are in each bin of `LENGTHS`."""
    import numpy as np

    return np.bincount(np.searchsorted(LENGTHS, values, side="right") - 1, minlength=len(LENGTHS))


def word_drift(reference: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, dict[str, tuple[float, float]]]:
    """Distance of two profiles' words, and the share of each that is compared in both, the largest move first."""
    compared = list(reference["words"])[:COMPARED_WORDS]
    spread = []
    for one in (reference, now):
        counts = {word: one["words"].get(word, 0) for word in compared}
        counts[""] = one["words_in_all"] - sum(counts.values())
        spread.append(counts)
    before, after = ({word: n / max(1, sum(counts.values())) for word, n in counts.items()} for counts in spread)
    moved = sorted((word for word in compared), key=lambda word: (-abs(after[word] - before[word]), word))
    return distance(*spread), {word: (before[word], after[word]) for word in moved}
