"""The chain of trainings that a model went through: a warm start adds one, a fresh adapter begins anew."""

from __future__ import annotations

import sys

from regraft.manifest import Manifest
from regraft.step import Context, Work, result_of

AFRESH = "none"
"""The input `warm_start` of a training that begins with a fresh adapter."""


def inputs(context: Context, base: str) -> dict[str, str]:
    """Identity of the training whose adapter is gone on with: the champion's, until it is time to start afresh.

    Args:
        base: what pins the base model; an adapter over another one does not go on.
    """
    training = context.recipe.training
    if not training.warm_start:
        return {}
    champion = context.ledger.before(context.run)
    if champion is None:
        return {"warm_start": AFRESH}
    trained = result_of(context.store, "finetune", champion.model)
    if trained.inputs.get("base_model") != base:
        print("finetune: the champion was trained on another base model: a fresh adapter", file=sys.stderr, flush=True)
        return {"warm_start": AFRESH}
    over = training.rebase_every is not None and len(_trainings(trained)) >= training.rebase_every
    return {"warm_start": AFRESH if over else champion.model}


def _trainings(model: Manifest) -> list[str]:
    """Runs of the trainings that a model went through since its adapter was fresh, its own last."""
    return [*model.metrics.get("chain", []), model.run or model.identity[:12]]


def before(context: Work) -> list[str]:
    """Runs of the trainings that this one goes on from, the oldest first."""
    model = context.inputs.get("warm_start", AFRESH)
    return [] if model == AFRESH else _trainings(result_of(context.store, "finetune", model))
