"""Registers the challenger in MLflow and makes it champion in the ledger, if it still beats whoever is champion now."""

from __future__ import annotations

import json

from regraft import contest, tracking
from regraft.gate import Verdict
from regraft.ledger import Entry, Moved
from regraft.step import Context, Outcome
from regraft.store import Manifest


def inputs(context: Context) -> dict[str, str]:
    """The challenger and the verdict on it."""
    evaluation = context.result("evaluate")
    return {
        "model": context.result("finetune").identity,
        "verdict": evaluation.outputs["verdict.json"].sha256,
        "evaluation": evaluation.identity,
    }


def verify(context: Context, manifest: Manifest) -> bool:
    """A result that says "not yet" is out of date once the model is in the ledger: somebody approved it."""
    return manifest.refused is None or _entry_of(context, context.inputs["model"]) is None


def work(context: Context) -> Outcome:
    """Decides against the current champion, registers, takes the next ledger entry; again if another was first."""
    from components.promote import follow, register

    client = tracking.connect()
    recipe, model = context.recipe, context.result("finetune")
    verdict = _verdict(context)
    version: int | None = None
    while True:
        if entry := _entry_of(context, model.identity):
            follow.aliases(client, context.ledger, recipe.name)
            return Outcome(metrics={"version": entry.version, "sequence": entry.sequence})
        head = context.ledger.head()
        if _opponent(verdict) != (head.model if head else None):
            context.progress(0.1, "the champion changed since the verdict: deciding again")
            verdict = contest.decide(context, model=model, opponent=head, data=context.result("validate")).verdict
        if verdict.verdict != "promote":
            if version is not None:
                register.withdraw(client, recipe.name, version, verdict)
            return Outcome(metrics={"version": version}, refused=verdict.sentence)
        if version is None:
            context.progress(0.2, "registering in MLflow")
            version = register.register(context, client, model=model, verdict=verdict)
        if recipe.promotion == "approval":
            sentence = f"waiting for approval: regraft promote {recipe.name} --version {version}"
            return Outcome(metrics={"version": version}, refused=sentence)
        try:
            context.ledger.append(
                head,
                kind="promote",
                version=version,
                model=model.identity,
                run=context.run,
                evaluation=context.inputs["evaluation"],
                reason=verdict.sentence,
            )
        except Moved:
            continue  # the loop reads the ledger again


def _entry_of(context: Context, model: str) -> Entry | None:
    """The first ledger entry of a model. While it stands, a repeated run changes nothing: a rollback holds."""
    return next((entry for entry in context.ledger.entries() if entry.model == model), None)


def _verdict(context: Context) -> Verdict:
    folder = context.fetch(context.result("evaluate"), "verdict.json")
    return Verdict.model_validate(json.loads((folder / "verdict.json").read_text()))


def _opponent(verdict: Verdict) -> str | None:
    return verdict.champion.model if verdict.champion else None
