"""deploy: makes Triton serve the ledger's head, without losing a request; a first champion becomes it by serving."""

from __future__ import annotations

from components.deploy import rollout
from regraft.ledger import Entry, Ledger
from regraft.manifest import Manifest
from regraft.step import Context, Outcome, Work


def inputs(context: Context) -> dict[str, str]:
    """The champion. Its finetune identity covers the base model; where it is served is no part of the result."""
    rollout.target(context.recipe)
    entry = _due(context, context.ledger.now())
    return {"model": entry.model, "version": str(entry.version)}


def _due(context: Context, ledger: Ledger) -> Entry:
    return rollout.due(ledger, context.result("promote"), context.run)


def verify(context: Work, manifest: Manifest) -> bool:
    """Whether every replica serves what the ledger says; what was refused is tried again."""
    ledger = context.ledger.now()
    entry = _due(context, ledger)
    if manifest.refused or rollout.waits(ledger, entry):
        return False
    return not rollout.differences(ledger, rollout.target(context.recipe), entry)


def work(context: Work) -> Outcome:
    """Builds the champion's version directory and rolls it out."""
    from components.deploy import alias
    from components.deploy.deployment import deploy

    entry = _due(context, context.ledger.now())
    done = deploy(
        recipe=context.recipe,
        ledger=context.ledger,
        entry=entry,
        scratch=context.scratch,
        out=context.out,
        any_settings=False,
        progress=context.progress,
    )
    alias.update(context.recipe.name, context.ledger)
    return Outcome(
        metrics={"version": done.entry.version},
        measured=done.measured,
        refused=done.refused,
        refused_by="rollout" if done.refused else None,
    )
