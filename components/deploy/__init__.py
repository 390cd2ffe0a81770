"""deploy: makes Triton serve the ledger's head, without losing a request."""

from __future__ import annotations

from components.deploy import rollout
from regraft.step import Context, Outcome
from regraft.store import Manifest


def inputs(context: Context) -> dict[str, str]:
    """The champion. Its finetune identity covers the base model; where it is served is no part of the result."""
    rollout.target(context.recipe)
    context.result("promote")
    entry = rollout.promoted(context.store)
    return {"model": entry.model, "version": str(entry.version)}


def verify(context: Context, manifest: Manifest) -> bool:
    """Whether every replica serves what the ledger says; a champion that was refused is tried again."""
    if rollout.promoted(context.store).kind == "withdraw":
        return manifest.refused is not None
    if manifest.refused:
        return False
    head = rollout.champion(context.store)
    return not rollout.differences(context.store, rollout.target(context.recipe), head)


def work(context: Context) -> Outcome:
    """Builds the champion's version directory and rolls it out."""
    from components.deploy.deployment import deploy

    entry = rollout.promoted(context.store)
    if entry.kind == "withdraw":
        again = f"regraft promote {context.recipe.name} --version {entry.version} tries it again"
        return Outcome(metrics={"version": entry.version}, refused=f"{entry.reason}; {again}")
    done = deploy(
        recipe=context.recipe,
        store=context.store,
        entry=entry,
        scratch=context.scratch,
        out=context.out,
        any_settings=False,
        progress=context.progress,
    )
    return Outcome(metrics={"version": done.entry.version}, measured=done.measured, refused=done.refused)
