"""deploy: makes Triton serve the ledger's head, without losing a request."""

from __future__ import annotations

from components.deploy import rollout
from regraft.step import Context, Outcome
from regraft.store import Manifest


def inputs(context: Context) -> dict[str, str]:
    """The champion. Its finetune identity covers the base model; where it is served is no part of the result."""
    rollout.target(context.recipe)
    context.result("promote")
    head = rollout.champion(context.store)
    return {"model": head.model, "version": str(head.version)}


def verify(context: Context, manifest: Manifest) -> bool:
    """Whether every replica serves what the ledger says; a champion that was refused is tried again."""
    if manifest.refused:
        return False
    head = rollout.champion(context.store)
    return not rollout.differences(context.store, rollout.target(context.recipe), head)


def work(context: Context) -> Outcome:
    """Builds the champion's version directory and rolls it out."""
    from components.deploy.deployment import deploy

    done = deploy(
        recipe=context.recipe,
        store=context.store,
        entry=rollout.champion(context.store),
        scratch=context.scratch,
        out=context.out,
        any_settings=False,
        progress=context.progress,
    )
    return Outcome(metrics={"version": done.entry.version}, measured=done.measured, refused=done.refused)
