"""Scores challenger and champion on the same holdout and gives a verdict."""

from __future__ import annotations

import sys

from regraft import bases, contest, reading, tasks
from regraft.step import Context, Outcome, Work


def inputs(context: Context) -> dict[str, str]:
    """Both models, the holdout and, where the recipe has such, the anchor set, the probes and the judge's sample."""
    model = context.result("finetune")
    champion = context.ledger.opponent(model.identity)
    digests = {
        "holdout": context.result("validate").outputs["holdout.parquet"].sha256,
        "model": model.identity,
        "model_digest": model.digest,
        "base_model": bases.digest(context, model),
        "champion": champion.model if champion else "none",
    }
    sets = {f"probe.{name}": source for name, source in contest.probes(context.recipe).items()}
    if anchor := tasks.anchor(context.recipe):
        sets["anchor"] = anchor
    if compared := contest.compared(context.recipe):
        if why := contest.judge_is_off():
            print(f"warning: gates.judge: {why}", file=sys.stderr, flush=True)
            digests["judge"] = "off"
        else:
            sets["judge"] = compared
    for name, source in sets.items():
        for sentence in reading.left_out(source).values():
            print(f"warning: {source.location}: {sentence}", file=sys.stderr, flush=True)
        digests[name] = reading.pinned(source)
    return digests


def work(context: Work) -> Outcome:
    """Judges, draws, reports, and tells MLflow."""
    from components.evaluate import mlflow_page, plots, report
    from regraft import tracking

    client = tracking.connect()  # before the work: a server that is away should cost nothing
    tracking.prepare(client, context.recipe.name, context.recipe.gates.metric)
    model, data = context.result("finetune"), context.result("validate")
    opponent = context.ledger.opponent(model.identity)
    judged = contest.decide(context, model=model, opponent=opponent, data=data, measure_latency=True)
    verdict = judged.verdict
    (context.out / "verdict.json").write_text(verdict.model_dump_json(indent=1))
    task, recipe = tasks.of(context.recipe.task), context.recipe
    report.write_predictions(context.out / "predictions.parquet", judged, task.predictions(recipe, judged))
    drawn = plots.draw(context.out / "plots", judged, task.figures(recipe, judged))
    examples = [*task.examples(recipe, judged), *judged.probed]
    measured = {} if judged.latency_ms is None else {"latency_ms": judged.latency_ms}
    (context.out / "report.html").write_text(
        report.render(context, judged, examples=examples, data=data, model=model, plots=drawn, measured=measured)
    )
    mlflow_page.fill(client, context, data=data, model=model, verdict=verdict, measured=measured)
    metrics = {"verdict": verdict.verdict, "challenger": verdict.challenger.metrics}
    if verdict.champion:
        metrics["champion"] = verdict.champion.metrics
    outcome = Outcome(metrics=metrics, measured=measured, views=("report.html",))
    if verdict.verdict != "promote":
        outcome.refused, outcome.refused_by = verdict.sentence, "gate"
    return outcome
