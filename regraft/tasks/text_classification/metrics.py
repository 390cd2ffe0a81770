"""How good a classifier is: accuracy and F1 as sums of tallies, calibration, and a cross-check of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regraft.gate import Gate, Own
from regraft.tally import Metric, Tally
from regraft.tasks.text_classification.model import probabilities
from regraft.tasks.text_classification.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

BINS = 15
"""Equal-width bins of confidence, of the calibration error."""


def true(rows: Any) -> Ints:
    """Indices of the true labels, shape (rows,)."""
    import numpy as np

    return np.asarray(rows["label"].to_numpy(), dtype=np.int64)


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each label: rows answered rightly, rows answered with it, rows that have it; a width of 3 labels."""
    import numpy as np

    size = len(recipe.data.labels)

    def adds(keys: Ints) -> Any:
        from scipy.sparse import csr_array

        label, answer = keys.T
        columns = np.concatenate([label, size + answer, 2 * size + label])
        ones = np.concatenate([label == answer, np.ones(2 * len(keys))])
        return csr_array((ones, (np.tile(np.arange(len(keys)), 3), columns)), shape=(len(keys), 3 * size))

    return Tally(np.stack([true(rows), probabilities(answers).argmax(axis=1)], axis=1), adds)


def _accuracy(sums: Floats) -> Floats:
    import numpy as np

    hits, _, labels = np.split(sums, 3)
    return np.asarray(hits.sum(axis=0) / labels.sum(axis=0))


def _f1_macro(sums: Floats) -> Floats:
    """As sklearn's f1_score(average='macro', zero_division=0)."""
    import numpy as np

    hits, answers, labels = np.split(sums, 3)
    total = answers + labels
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0).mean(axis=0))


METRICS: Mapping[str, Metric] = {"accuracy": _accuracy, "f1_macro": _f1_macro}


def scored(labels: Sequence[int], answers: Any) -> dict[str, float]:
    """accuracy and f1_macro of the most probable labels.

    Args:
        labels: true label indices, shape (texts,).
        answers: probabilities or logits, shape (texts, labels).
    """
    from sklearn.metrics import accuracy_score, f1_score

    predicted = answers.argmax(axis=1)
    known = list(range(answers.shape[1]))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, labels=known, average="macro", zero_division=0)),
    }


def mcnemar(labels: Ints, challenger: Floats, champion: Floats) -> float:
    """Two-sided p-value of the exact McNemar test on the rows that just one of the two gets right."""
    from scipy.stats import binomtest

    ours, theirs = challenger.argmax(axis=1) == labels, champion.argmax(axis=1) == labels
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return round(float(binomtest(gained, gained + lost).pvalue), 6) if gained + lost else 1.0


def calibration_error(labels: Ints, probabilities: Floats) -> float:
    """Expected calibration error of the most probable label (Guo et al., ICML 2017); not a number counts as 0."""
    import numpy as np

    confidence, correct = np.nan_to_num(probabilities).max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, correct - confidence, minlength=BINS)
    return round(float(np.abs(gaps).sum() / len(labels)), 6)


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """Calibration, with a gate where the recipe has a ceiling; and McNemar's test, apart from the bootstrap."""
    labels, ours = true(rows), probabilities(challenger)
    theirs = None if champion is None else probabilities(champion)
    sides = [None if p is None or not len(labels) else calibration_error(labels, p) for p in (ours, theirs)]
    error, ceiling = sides[0], recipe.gates.max_calibration_error
    judged = []
    if error is not None and ceiling is not None:
        sentence = f"calibration error {error:.3f}, ceiling {ceiling:g}"
        judged.append(Gate(name="calibration", passed=error <= ceiling, sentence=sentence))
    compared = theirs is not None and len(labels)
    return Own(
        challenger={"calibration_error": error},
        champion={"calibration_error": sides[1]},
        difference={"mcnemar_p": mcnemar(labels, ours, theirs)} if compared and theirs is not None else {},
        gates=tuple(judged),
    )


def broken(answers: Any) -> int:
    """Answers that are not numbers."""
    import numpy as np

    return int((~np.isfinite(probabilities(answers))).any(axis=1).sum())


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Only models of the same labels can be."""
    mine, theirs = list(recipe.data.labels), list(other.data.labels)
    return None if mine == theirs else f"knows the labels {theirs}, not {mine}"
