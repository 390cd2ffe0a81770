"""How well a model knows documents: the probability of their bytes and tokens, as sums over documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from regraft.causal import scoring
from regraft.causal.scoring import broken
from regraft.gate import Gate, Own
from regraft.tally import Metric, Tally
from regraft.tasks.pretraining.recipe import Recipe

if TYPE_CHECKING:
    from regraft.causal.scoring import Floats

__all__ = ["METRICS", "broken", "comparable", "own", "tally"]


def byte_likelihood(sums: Floats) -> Floats:
    """The geometric mean of the probability of a byte: 2 to the power of minus the bits per byte."""
    import numpy as np

    return np.asarray(np.exp(np.divide(sums[-3], sums[0], out=np.full_like(sums[0], -np.inf), where=sums[0] > 0)))


METRICS: Mapping[str, Metric] = {"byte_likelihood": byte_likelihood, "likelihood": scoring.likelihood}


def sizes(rows: Any) -> Any:
    """Bytes of each document, shape (rows,)."""
    import numpy as np
    import pyarrow.compute as pc

    return np.asarray(pc.binary_length(rows["text"]), dtype=np.int64)


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each document its bytes, the log-likelihood of its tokens, how many those are; one."""
    import numpy as np

    likelihood = np.nan_to_num(answers["log_likelihood"].to_numpy()) * scoring.UNIT
    keys = [sizes(rows), np.rint(likelihood).astype(np.int64), answers["reference_tokens"].to_numpy()]

    def adds(keys: Any) -> Any:
        return np.column_stack([keys[:, 0], keys[:, 1] / scoring.UNIT, keys[:, 2], np.ones(len(keys))])

    return Tally(np.column_stack(keys), adds)


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """Perplexity and bits per byte; and, where tokens are compared, that both models count the same ones."""
    return Own(
        challenger=_facts(rows, challenger),
        champion={} if champion is None else _facts(rows, champion),
        gates=tuple(_same_tokens(recipe, challenger, champion)),
    )


def _facts(rows: Any, answers: Any) -> dict[str, float | None]:
    """What people who train language models know them by."""
    import numpy as np

    total, size = float(answers["log_likelihood"].to_numpy().sum()), int(sizes(rows).sum())
    bits = round(-total / np.log(2) / size, 6) if size and np.isfinite(total) else None
    return {"perplexity": scoring.perplexity(answers), "bits_per_byte": bits}


def _same_tokens(recipe: Recipe, challenger: Any, champion: Any) -> Iterator[Gate]:
    """A gate only where it fails: the probability of a token says nothing where tokens are others."""
    if champion is None or recipe.gates.metric != "likelihood":
        return
    if challenger["reference_tokens"].equals(champion["reference_tokens"]):
        return
    sentence = "the champion's tokenizer is another, so that tokens cannot be compared: gates.metric: byte_likelihood"
    yield Gate(name="tokens", passed=False, sentence=sentence)


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Any two models can be compared by the bytes of documents."""
    return None
