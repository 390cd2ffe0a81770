"""deploy: makes Triton serve the ledger's head, without losing a request; a first champion becomes it by serving."""

from __future__ import annotations

from components.deploy import rollout
from regraft.ledger import Entry
from regraft.step import Context, Outcome
from regraft.store import Manifest


def inputs(context: Context) -> dict[str, str]:
    """The champion. Its finetune identity covers the base model; where it is served is no part of the result."""
    rollout.target(context.recipe)
    entry = _due(context)
    return {"model": entry.model, "version": str(entry.version)}


def _due(context: Context) -> Entry:
    return rollout.due(context.store, context.result("promote"), context.run)


def verify(context: Context, manifest: Manifest) -> bool:
    """Whether every replica serves what the ledger says; what was refused is tried again."""
    entry = _due(context)
    if manifest.refused or rollout.waits(context.store, entry):
        return False
    return not rollout.differences(context.store, rollout.target(context.recipe), entry)


def work(context: Context) -> Outcome:
    """Builds the champion's version directory and rolls it out."""
    from components.deploy import alias
    from components.deploy.deployment import deploy

    entry = _due(context)
    done = deploy(
        recipe=context.recipe,
        store=context.store,
        entry=entry,
        scratch=context.scratch,
        out=context.out,
        any_settings=False,
        progress=context.progress,
    )
    alias.follow(context.recipe.name, context.ledger)
    return Outcome(metrics={"version": done.entry.version}, measured=done.measured, refused=done.refused)
