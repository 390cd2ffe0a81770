"""Registers the challenger in MLflow and makes it champion in the ledger, if it still beats whoever is champion now.

Where there is no champion, it only registers: deploy writes the first champion's entry, once the model serves.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from regraft import tracking
from regraft.ledger import Entry, Moved
from regraft.step import Context, Outcome
from regraft.store import Manifest

if TYPE_CHECKING:
    from regraft.gate import Verdict


def inputs(context: Context) -> dict[str, str]:
    """The challenger and the verdict on it."""
    evaluation = context.result("evaluate")
    return {
        "model": context.result("finetune").identity,
        "verdict": evaluation.outputs["verdict.json"].sha256,
        "evaluation": evaluation.identity,
    }


def verify(context: Context, manifest: Manifest) -> bool:
    """Whether it still holds: what is in the ledger does, anything else only against the champion that is one now."""
    entry = context.ledger.champion(context.inputs["model"])
    if entry is not None:
        return manifest.refused is None
    return "champion" in manifest.metrics and manifest.metrics["champion"] == _model(context.ledger.head())


def work(context: Context) -> Outcome:
    """Decides against the current champion, registers, takes the next ledger entry; again if another was first."""
    client = tracking.connect()
    tracking.ready(client, context.recipe.name)
    with tracking.answering():
        return _promoted(context, client)


def _promoted(context: Context, client: Any) -> Outcome:
    from components.promote import follow, register
    from regraft import contest

    recipe, model = context.recipe, context.result("finetune")
    verdict, again = _verdict(context), ""
    version: int | None = None
    while True:
        # while its entry stands, a repeated run changes nothing: a rollback holds
        if entry := context.ledger.champion(model.identity):
            follow.repair(client, context.ledger, recipe.name)
            return Outcome(metrics={"version": entry.version, "sequence": entry.sequence})
        head = context.ledger.head()
        if _opponent(verdict) != _model(head):
            context.progress(0.1, "the champion changed since the verdict: deciding again")
            verdict = contest.decide(context, model=model, opponent=head, data=context.result("validate")).verdict
            again = " Decided again by promote, since the champion had changed after the evaluation."
            (context.out / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        champion = {"champion": _model(head)}
        if verdict.verdict != "promote":
            version = version or register.version_of(client, recipe.name, model.identity)
            if version is not None:
                register.withdraw(context, client, version, model=model, verdict=verdict)
            return Outcome(metrics={**champion, "version": version}, refused=verdict.sentence + again)
        context.progress(0.2, "registering in MLflow")
        version = register.register(context, client, model=model, verdict=verdict)
        if recipe.promotion == "approval":
            sentence = f"waiting for approval: regraft promote {recipe.name} --version {version}"
            return Outcome(metrics={**champion, "version": version}, refused=sentence)
        if head is None:
            return Outcome(metrics={**champion, "version": version, "reason": verdict.sentence + again})
        try:
            context.ledger.append(
                head,
                kind="promote",
                version=version,
                model=model.identity,
                run=context.run,
                evaluation=context.inputs["evaluation"],
                reason=verdict.sentence + again,
            )
        except Moved:
            continue  # the loop reads the ledger again


def _verdict(context: Context) -> Verdict:
    from regraft.gate import Verdict

    folder = context.fetch(context.result("evaluate"), "verdict.json")
    return Verdict.model_validate(json.loads((folder / "verdict.json").read_text()))


def _opponent(verdict: Verdict) -> str | None:
    return verdict.champion.model if verdict.champion else None


def _model(entry: Entry | None) -> str | None:
    return entry.model if entry else None
