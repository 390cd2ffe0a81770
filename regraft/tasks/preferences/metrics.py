"""How well a model tells what people prefer: by the implicit reward of answers, how much more probable it finds them
than its base model does (Rafailov et al., NeurIPS 2023); and whether it still finds chosen answers probable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.causal import scoring
from regraft.causal.scoring import UNIT
from regraft.gate import Gate, Own, loses_at_most
from regraft.tally import Interval, Metric, Tally, difference
from regraft.tasks.preferences.recipe import Recipe

LIBRARIES = {"validate": ("transformers",)}

METRICS: Mapping[str, Metric] = {"accuracy": scoring.mean(0), "likelihood": scoring.likelihood}
TOTALS = ("chosen", "rejected", "base_chosen", "base_rejected")


def rewards(answers: Any) -> Any:
    """The implicit rewards of both answers of each pair, in nats, to a millionth; shape (2, pairs)."""
    import numpy as np

    found = [answers[name].to_numpy() - answers[f"base_{name}"].to_numpy() for name in ("chosen", "rejected")]
    return np.rint(np.nan_to_num(np.array(found)) * UNIT) / UNIT


def margins(answers: Any) -> Any:
    """By how much the reward of each pair's chosen answer is greater, in nats, shape (pairs,)."""
    import numpy as np

    chosen, rejected = rewards(answers)
    return np.round(chosen - rejected, 6)


def right(answers: Any) -> Any:
    """Of each pair 2 where its chosen answer has the greater reward, 1 where both have the same, else 0."""
    import numpy as np

    return np.sign(margins(answers)).astype(np.int64) + 1


def tally(recipe: Recipe, rows: Any, answers: Any) -> Tally:
    """Of each row whether the chosen answer has the greater reward (one that is not there has none); its log-likelihood
    and tokens; one."""
    import numpy as np

    chosen = _likelihood(answers, "chosen")
    return Tally(np.column_stack([right(answers), chosen.keys]), lambda keys: _adds(keys, halves=1))


def _likelihood(answers: Any, column: str) -> Tally:
    """Of each row the log-likelihood of a chosen answer and its tokens; one."""
    import numpy as np

    total = np.rint(np.nan_to_num(answers[column].to_numpy()) * UNIT).astype(np.int64)
    return Tally(np.column_stack([total, answers["chosen_tokens"].to_numpy()]), lambda keys: _adds(keys, halves=0))


def _adds(keys: Any, *, halves: int) -> Any:
    import numpy as np

    out = np.column_stack([keys.astype(float), np.ones(len(keys))])
    out[:, :halves] /= 2
    out[:, halves] /= UNIT
    return out


def broken(answers: Any) -> int:
    """Pairs of which a likelihood is not a number: the weights are none."""
    import numpy as np

    return int((~np.isfinite([answers[name].to_numpy() for name in TOTALS])).any(axis=0).sum())


def own(recipe: Recipe, rows: Any, challenger: Any, champion: Any) -> Own:
    """What explains an accuracy, of both sides; and the gate of how probable chosen answers have to stay."""
    return Own(
        challenger=facts(challenger),
        champion=dict.fromkeys(facts(challenger)) if champion is None else facts(champion),
        gates=tuple(_kept(recipe, challenger, champion)),
    )


def facts(answers: Any) -> dict[str, float | None]:
    """The mean margin of rewards and how much more probable a token of chosen answers became, in nats; and whether that
    is a matter of length: tokens of both answers, and the accuracy on pairs whose chosen answer is shorter."""
    import numpy as np

    if not answers.num_rows:
        return {}
    one, other = (answers[f"{name}_tokens"].to_numpy() for name in ("chosen", "rejected"))
    shorter = (one > 0) & (one < other)
    return {
        "reward_margin": _rounded(np.mean(margins(answers))),
        "divergence_per_token": _rounded(rewards(answers)[0].sum() / max(one.sum(), 1)),
        "chosen_tokens": _rounded(one.sum() / max((one > 0).sum(), 1)),
        "rejected_tokens": _rounded(other.sum() / max((other > 0).sum(), 1)),
        "accuracy_where_chosen_is_shorter": _rounded(right(answers)[shorter].mean() / 2) if shorter.any() else None,
    }


def _rounded(value: Any) -> float:
    return round(float(value), 6)


def _kept(recipe: Recipe, challenger: Any, champion: Any) -> Iterator[Gate]:
    """Chosen answers have to stay as probable as under the base model and under the champion, but for a margin.

    Likelihoods are compared by their ratio: the difference of their logarithms.
    """
    most, confidence = recipe.gates.likelihood_loss, recipe.gates.confidence
    if most is None or not challenger.num_rows:
        return
    ours = _likelihood(challenger, "chosen")
    others = {"base model": _likelihood(challenger, "base_chosen")}
    if champion is not None:
        others["champion"] = _likelihood(champion, "chosen")
    for name, theirs in others.items():
        found = difference(ours, theirs, _per_token, confidence=confidence)
        change = Interval(**{end: math.expm1(value) for end, value in found.model_dump().items()})
        sentence = (
            f"the likelihood of a token of chosen answers is {change.point:+.1%} against the {name}'s "
            f"({confidence * 100:g} % interval {change.low:+.1%} to {change.high:+.1%}), {most:.1%} may be lost"
        )
        yield loses_at_most(most, change, name=f"likelihood against the {name}", sentence=sentence)


def _per_token(sums: Any) -> Any:
    """The log-likelihood of a token."""
    import numpy as np

    return np.divide(sums[0], sums[1], out=np.zeros_like(sums[0]), where=sums[1] > 0)


def comparable(recipe: Recipe, other: Recipe) -> str | None:
    """Rewards can be compared whatever they were learned by."""
    return None
