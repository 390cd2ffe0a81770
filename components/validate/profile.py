"""The profile of a data set, and how far another one has drifted from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT_WORDS = 5_000
COMPARED_WORDS = 500
"""Words the drift of texts is measured on, the most frequent ones of the reference; all others count as one. More words
would measure chance: the distance of two samples of one source grows with the root of words / sample."""
NAMED_WORDS = 5


def profile(*, rows: int, labels: Mapping[str, int], words: Mapping[str, int]) -> dict[str, Any]:
    """What later runs compare with: counts of rows, labels and the most frequent words."""
    top = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:KEPT_WORDS]
    return {"rows": rows, "labels": dict(labels), "words": dict(top), "words_in_all": sum(words.values())}


def distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Jensen-Shannon distance of two counts, base 2: 0 for equal shares, 1 where nothing is shared."""
    from scipy.spatial.distance import jensenshannon

    keys = sorted({*one, *other})
    if not sum(one.values()) or not sum(other.values()):
        return 1.0
    value = float(jensenshannon([one.get(k, 0) for k in keys], [other.get(k, 0) for k in keys], base=2))
    return round(value, 6)


def word_drift(reference: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Distance of two profiles' words, and the words that moved most, the largest move first."""
    compared = list(reference["words"])[:COMPARED_WORDS]
    spread = []
    for one in (reference, now):
        counts = {word: one["words"].get(word, 0) for word in compared}
        counts[""] = one["words_in_all"] - sum(counts.values())
        spread.append(counts)
    before, after = ({word: n / max(1, sum(counts.values())) for word, n in counts.items()} for counts in spread)
    moved = sorted((word for word in compared), key=lambda word: (-abs(after[word] - before[word]), word))
    return distance(*spread), moved[:NAMED_WORDS]
