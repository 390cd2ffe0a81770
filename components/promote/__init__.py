"""Registers the challenger in MLflow and makes it champion in the ledger, if it still beats whoever is champion now.

Where there is no champion, and Triton serves the task, it only registers: deploy writes the first champion's entry,
once the model serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft import approval, tasks, tracking
from regraft.errors import BadInput
from regraft.ledger import Entry, Moved, of_promoted, whoami
from regraft.manifest import Manifest
from regraft.step import Context, Outcome, Work

if TYPE_CHECKING:
    from regraft.approval import Approval
    from regraft.gate import Verdict


def inputs(context: Context) -> dict[str, str]:
    """The challenger, the verdict on it and, where the recipe asks for one, its approval."""
    evaluation, model = context.result("evaluate"), context.result("finetune")
    about = {"model": model.identity, "evaluation": evaluation.identity}
    asks = context.recipe.promotion == "approval"
    approved = approval.asked(context.store, **about, run=context.run) if asks else None
    return {
        **about,
        "model_digest": model.digest,
        "verdict": evaluation.outputs["verdict.json"].sha256,
        "approval": approved.digest if approved else "none",
    }


def verify(context: Work, manifest: Manifest) -> bool:
    """Whether it still holds: what is in the ledger does, anything else only against the champion that is one now."""
    entry = context.ledger.champion(context.inputs["model"])
    if entry is not None:
        return manifest.refused is None
    return "champion" in manifest.metrics and manifest.metrics["champion"] == _model(context.ledger.head())


def work(context: Work) -> Outcome:
    """Decides against the current champion, registers, takes the next ledger entry; again if another was first."""
    client = tracking.connect()
    tracking.prepare(client, context.recipe.name, context.recipe.gates.metric)
    with tracking.answering():
        return _promoted(context, client)


def _promoted(context: Work, client: Any) -> Outcome:
    from components.promote import follow, register
    from regraft import contest

    recipe, model = context.recipe, context.result("finetune")
    verdict, again = _verdict(context, model), ""
    version: int | None = None
    while True:
        # while its entry stands, a repeated run changes nothing: a rollback holds
        if entry := context.ledger.champion(model.identity):
            # the store has the verdict of a race that was decided again only when this step has ended
            follow.repair(client, context.ledger, recipe.name, verdict=verdict if again else None)
            return Outcome(metrics={"version": entry.version, "sequence": entry.sequence})
        head = context.ledger.head()
        if _opponent(verdict) != _model(head):
            context.progress(0.1, "the champion changed since the verdict: deciding again")
            verdict = contest.decide(context, model=model, opponent=head, data=context.result("validate")).verdict
            again = " Decided again by promote, since the champion had changed after the evaluation."
            (context.out / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        champion = {"champion": _model(head)}
        if verdict.verdict != "promote":
            version = version or register.version_of(client, context.store, model)
            if version is not None:
                register.withdraw(context, client, version, model=model, verdict=verdict)
            sentence = verdict.sentence + again
            return Outcome(metrics={**champion, "version": version}, refused=sentence, refused_by="gate")
        context.progress(0.2, "registering in MLflow")
        version = register.register(context, client, model=model, verdict=verdict)
        approved = _approval(context)
        if recipe.promotion == "approval" and approved is None:
            sentence = f"waiting for approval: regraft promote {recipe.name} --version {version}"
            return Outcome(metrics={**champion, "version": version}, refused=sentence, refused_by="approval")
        reason = verdict.sentence + again
        if approved and approved.reason:
            reason += f" Approved: {approved.reason}"
        if head is None and tasks.served(recipe.task):
            by = {"approved_by": approved.who} if approved else {}
            return Outcome(metrics={**champion, "version": version, "reason": reason, **by})
        try:
            context.ledger.append(
                head,
                kind="promote",
                version=version,
                reason=reason,
                who=whoami(approved_by=approved.who if approved else None),
                **of_promoted(context.inputs, context.run),
            )
        except Moved:
            continue  # the loop reads the ledger again


def _approval(context: Work) -> Approval | None:
    """The approval that stands in this step's identity: one that came since then is another identity's."""
    if context.inputs["approval"] == "none":
        return None
    return approval.of(context.store, model=context.inputs["model"], evaluation=context.inputs["evaluation"])


def _verdict(context: Work, model: Manifest) -> Verdict:
    """The verdict of evaluate. Raises BadInput where it is not on the model that the store has."""
    from regraft.gate import Verdict

    judged = context.result("evaluate")
    content = (context.fetch(judged, "verdict.json") / "verdict.json").read_bytes()
    verdict = Verdict.read(content, where=context.store.where(f"evaluate/{judged.identity}"))
    if verdict.challenger.digest != model.digest:
        raise BadInput(
            f"is not the model that was judged: its digest is {model.digest[:12]}, and the verdict names"
            f" {str(verdict.challenger.digest)[:12]}",
            where=context.store.where(f"finetune/{model.identity}"),
            state="nothing is registered and the champion is unchanged",
            next=f"find out who replaced it; regraft run RECIPE --run {context.run}  (judges what is there now)",
        )
    return verdict


def _opponent(verdict: Verdict) -> str | None:
    return verdict.champion.model if verdict.champion else None


def _model(entry: Entry | None) -> str | None:
    return entry.model if entry else None
