"""Probes: fixed sets of prompts whose answers have to hold, such as that something is refused, or nothing given away.

A few steps of training can undo what a base model was taught to refuse. So the share of answers that hold may not fall,
against the champion and against the base model, by more than a margin that all of the interval has to stay above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regraft.causal import scoring, showing
from regraft.causal.conversations import written
from regraft.errors import BadInput
from regraft.exchange import Examples
from regraft.gate import Gate, loses_at_most
from regraft.rows import Source
from regraft.tally import Tally, difference, score
from regraft.tasks.chat.recipe import Probe, Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def probes(recipe: Recipe) -> dict[str, Source]:
    """The sets that a recipe names."""
    return {
        name: Source(location=probe.source, quoting=recipe.data.quoting, columns={"prompt": (probe.prompt, "name")})
        for name, probe in recipe.gates.probes.items()
    }


def prompted(recipe: Recipe, name: str, prompts: Sequence[str | None]) -> Any:
    """Rows that ask the prompts of a set, a table as `answers` takes it. Raises BadInput where one is missing."""
    import pyarrow as pa

    for number, prompt in enumerate(prompts, start=1):
        if prompt is None or not prompt.strip():
            raise BadInput(
                f"row {number} has no prompt",
                where=recipe.gates.probes[name].source,
                next=f"mend that row, or gates.probes.{name} in the recipe",
            )
    nothing = written({"role": "assistant", "content": ""})
    texts = [written([{"role": "user", "content": prompt}]) for prompt in prompts]
    return pa.table({"text": texts, "answer": [nothing] * len(texts)})


def probed(
    recipe: Recipe, name: str, prompts: Sequence[str], ours: Any, others: Mapping[str, Any]
) -> tuple[list[Gate], Examples]:
    """The gates of a set, one against each other model; and the answers that hold no longer.

    Args:
        ours: answers of the challenger.
        others: those of the champion, where there is one, and of the base model.
    """
    probe, confidence = recipe.gates.probes[name], recipe.gates.confidence
    sides = {"challenger": ours, **others}
    held = {side: _held(probe, answers) for side, answers in sides.items()}
    gates = [_gate(name, probe, held["challenger"], held[side], side, confidence) for side in others]
    return gates, _lost(name, prompts, sides, held)


def _held(probe: Probe, answers: Any) -> npt.NDArray[np.bool_]:
    """Which answers hold, shape (rows,)."""
    import numpy as np

    said = answers["answer"].to_pylist()
    holds = [
        bool(probe.expects is None or re.search(probe.expects, text))
        and not (probe.forbids is not None and re.search(probe.forbids, text))
        for text in said
    ]
    return np.array(holds, dtype=bool)


def _tally(held: npt.NDArray[np.bool_]) -> Tally:
    import numpy as np

    return Tally(held.astype(np.int64)[:, None], lambda keys: np.column_stack([keys, np.ones(len(keys))]).astype(float))


def _gate(name: str, probe: Probe, ours: Any, theirs: Any, side: str, confidence: float) -> Gate:
    metric, sides = scoring.mean(0), (_tally(ours), _tally(theirs))
    delta = difference(*sides, metric, confidence=confidence)
    found = " against ".join(f"{score(tally, metric):.1%}" for tally in sides)
    sentence = (
        f"{found} of the {side}'s {len(ours):,} answers hold "
        f"({delta.point:+.3f}, {confidence * 100:g} % interval {delta.low:+.3f} to {delta.high:+.3f}), "
        f"{probe.max_drop:g} may be lost"
    )
    return loses_at_most(probe.max_drop, delta, name=f"probe {name}, {side}", sentence=sentence)


def _lost(name: str, prompts: Sequence[str], answers: Mapping[str, Any], held: Mapping[str, Any]) -> Examples:
    """The prompts to which another model's answer holds and the challenger's does not."""
    import numpy as np

    better = np.any([of for side, of in held.items() if side != "challenger"], axis=0)
    lost = np.flatnonzero(better & ~held["challenger"]).tolist()
    said = [of["answer"].to_pylist() for of in answers.values()]
    rows = [(prompts[row], *(of[row] for of in said)) for row in lost[: showing.SHOWN]]
    title = f"Probe {name}: answers that hold no longer"
    return Examples(title=title, count=len(lost), columns=("asked", *answers), rows=rows)
