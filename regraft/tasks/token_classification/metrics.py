"""How good a model is at entities: F1 of exact spans with their label, as sums of tallies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regraft.gate import Own
from regraft.tally import Metric, Tally
from regraft.tasks.token_classification.recipe import Recipe
from regraft.tasks.token_classification.rows import spans

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each label: entities found, entities answered, entities that there are; a width of 3 labels."""
    return counted(recipe.data.labels, rows["entities"].to_pylist(), answers["entities"].to_pylist())


def counted(labels: Sequence[str], true: Sequence[str], given: Sequence[str]) -> Tally:
    """The tally of rows' entities and those that a model gives, each in JSON. A loop over rows, 10 µs each."""
    import numpy as np

    size, number = len(labels), {label: i for i, label in enumerate(labels)}
    keys = np.zeros((len(true), 3 * size), dtype=np.int64)
    for row, (one, other) in enumerate(zip(true, given, strict=True)):
        there, found = set(spans(one)), set(spans(other))
        for block, some in enumerate((there & found, found, there)):
            for _, _, label in some:
                keys[row, block * size + number[label]] += 1
    return Tally(keys, lambda keys: keys.astype(float))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """0 where there is nothing, as in seqeval."""
    import numpy as np

    return np.asarray(np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0))


def by_label(sums: Floats) -> Floats:
    """F1 of each label, shape (labels, ...)."""
    import numpy as np

    hits, answers, labels = np.split(sums, 3)
    return _ratio(2 * hits, answers + labels)


def _all(sums: Floats) -> list[Floats]:
    """Hits, answers and true entities of all labels."""
    import numpy as np

    return [np.asarray(part.sum(axis=0), dtype=float) for part in np.split(sums, 3)]


def _span_f1(sums: Floats) -> Floats:
    """As seqeval's f1_score(average='micro')."""
    hits, answers, entities = _all(sums)
    return _ratio(2 * hits, answers + entities)


def _span_f1_macro(sums: Floats) -> Floats:
    """The mean over all labels of the recipe; one that is neither there nor answered counts as 0."""
    import numpy as np

    return np.asarray(by_label(sums).mean(axis=0))


def _precision(sums: Floats) -> Floats:
    hits, answers, _ = _all(sums)
    return _ratio(hits, answers)


def _recall(sums: Floats) -> Floats:
    hits, _, entities = _all(sums)
    return _ratio(hits, entities)


METRICS: Mapping[str, Metric] = {
    "span_f1": _span_f1,
    "span_f1_macro": _span_f1_macro,
    "precision": _precision,
    "recall": _recall,
}


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """Nothing: F1 of spans says it all."""
    return Own()


def broken(answers: Any) -> int:
    """Answers with a probability that is not a number."""
    import numpy as np
    import pyarrow.compute as pc

    tokens = answers["tokens"].combine_chunks()
    wrong = ~np.isfinite(tokens.flatten().field("probability").to_numpy())
    return len(np.unique(pc.list_parent_indices(tokens).to_numpy()[wrong]))


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Why the answers of a champion with another recipe cannot be compared; None where they can."""
    if sorted(recipe.data.labels) == sorted(other.data.labels):
        return None
    return f"knows the labels {list(other.data.labels)}, not {list(recipe.data.labels)}"
