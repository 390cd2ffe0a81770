"""How good answers in words are: chrF and likelihood as sums of tallies, what faults answers have, and their gates.

chrF (Popović, 2015) is that of the whole set, as sacrebleu 2 computes it, from its counts of each row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regraft.causal import Gates
from regraft.gate import Gate
from regraft.tally import Metric, Tally

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

UNIT = 1_000_000
"""Of fractions, which a tally's keys hold as whole numbers."""
ORDERS = 6
"""Characters of chrF's longest n-grams."""
BETA = 2
"""How many times chrF counts recall against precision."""
COPIED, REPEATED = 10, 4
"""Words in a row that make a copy of the text, or a repetition."""
_COUNTS = 3 * ORDERS


def tally(own: Any, right: Sequence[str], answers: Any) -> Tally:
    """Of each row: numbers of the task; matches of chrF's n-grams; log-likelihood and tokens of the reference; one.

    Args:
        own: the task's numbers in UNIT, shape (rows, n), whole.
        right: the references.
        answers: a table with `answer`, `log_likelihood` (natural, of the whole reference) and `reference_tokens`.
    """
    import numpy as np

    counted = np.asarray(answers["reference_tokens"], dtype=np.int64)
    likelihood = np.rint(np.nan_to_num(np.asarray(answers["log_likelihood"], dtype=float)) * UNIT).astype(np.int64)
    keys = np.column_stack([own, _matches(answers["answer"].to_pylist(), right), likelihood, counted])
    width = own.shape[1]

    def adds(keys: Any) -> Any:
        out = keys.astype(float)
        out[:, [*range(width), -2]] /= UNIT
        return np.column_stack([out, np.ones(len(out))])

    return Tally(keys, adds)


def _matches(said: Sequence[str], right: Sequence[str]) -> Any:
    """Of each row and order, n-grams of the answer, of the reference and of both; shape (rows, 18)."""
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    found = CHRF(char_order=ORDERS, beta=BETA)._extract_corpus_statistics(list(said), [list(right)]) if said else []
    return np.asarray(found, dtype=np.int64).reshape(len(said), _COUNTS)


def mean(column: int) -> Metric:
    """The mean of one of the task's numbers."""
    return lambda sums: sums[column] / sums[-1]


def chrf(sums: Floats) -> Floats:
    """chrF, from 0 to 1, of sums of counts as sacrebleu 2 takes them; orders that one side lacks do not count."""
    import numpy as np

    counts = sums[-3 - _COUNTS : -3].reshape(ORDERS, 3, *sums.shape[1:])
    given, right, both = (counts[:, place] for place in range(3))
    counted = (given > 0) & (right > 0)
    orders = counted.sum(axis=0)

    def average(of: Floats) -> Floats:
        ratio = np.divide(both, of, out=np.zeros_like(both), where=counted).sum(axis=0)
        return np.asarray(np.divide(ratio, orders, out=np.zeros_like(ratio), where=orders > 0))

    precision, recall = average(given), average(right)
    below = BETA**2 * precision + recall
    return np.asarray(np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0))


def likelihood(sums: Floats) -> Floats:
    """The geometric mean of the probability of a token of the references: 1 / perplexity."""
    import numpy as np

    return np.asarray(np.exp(np.divide(sums[-3], sums[-2], out=np.full_like(sums[-3], -np.inf), where=sums[-2] > 0)))


def perplexity(answers: Any) -> float | None:
    """Of all references together; None where there is none."""
    import numpy as np

    total, tokens = (float(np.sum(answers[name].to_numpy())) for name in ("log_likelihood", "reference_tokens"))
    return round(float(np.exp(-total / tokens)), 6) if tokens and np.isfinite(total) else None


def broken(answers: Any) -> int:
    """Answers whose reference has no likelihood that is a number: the weights are none."""
    import numpy as np

    return int((~np.isfinite(answers["log_likelihood"].to_numpy())).sum())


def faults(texts: Sequence[str], answers: Any, *, apart: bool = True) -> dict[str, list[bool]]:
    """Of each kind of fault, which answers have it.

    Args:
        texts: what each answer is about.
        apart: whether words are written apart; else characters count as such.
    """
    out: dict[str, list[bool]] = {"empty": [], "truncated": [], "repeated": [], "copied": []}
    sides = (texts, answers["answer"].to_pylist(), answers["finished"].to_pylist())
    for text, said, finished in zip(*sides, strict=True):
        parts, whole = (re.findall(r"\w+" if apart else r"\w", side.lower()) for side in (said, text))
        grams = _grams(parts, REPEATED)
        out["empty"].append(not said.strip())
        out["truncated"].append(not finished)
        out["repeated"].append(len(set(grams)) < len(grams))
        out["copied"].append(not set(_grams(parts, COPIED)).isdisjoint(_grams(whole, COPIED)))
    return out


def _grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def gates(declared: Gates, found: Mapping[str, Sequence[bool]], answers: Any, right: Sequence[str]) -> Iterator[Gate]:
    """The gates of what answers must not be. Of no answers there is nothing to judge.

    Args:
        found: what `faults` said of them.
    """
    if not right:
        return
    for kind, has in found.items():
        ceiling, share = getattr(declared.outputs, kind), sum(has) / len(has)
        if ceiling is not None:
            sentence = f"{sum(has):,} of {len(has):,} answers are {kind} ({share:.1%}), ceiling {ceiling:.1%}"
            yield Gate(name=f"answers {kind}", passed=share <= ceiling, sentence=sentence)
    if declared.length_ratio is not None:
        least, most = declared.length_ratio
        ratio = sum(map(len, answers["answer"].to_pylist())) / max(sum(map(len, right)), 1)
        sentence = f"answers are {ratio:.2f} times as long as the references, {least:g} to {most:g} may be"
        yield Gate(name="length", passed=least <= ratio <= most, sentence=sentence)
