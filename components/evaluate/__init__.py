"""Scores challenger and champion on the same holdout and gives a verdict."""

from __future__ import annotations

import sys

from regraft import contest, reading, sources
from regraft.step import Context, Outcome
from regraft.store import sha256


def inputs(context: Context) -> dict[str, str]:
    """Both models, the holdout and, where the recipe has one, the anchor set."""
    model, base = context.result("finetune"), context.recipe.base_model
    champion = context.ledger.opponent(model.identity)
    digests = {
        "holdout": context.result("validate").outputs["holdout.parquet"].sha256,
        "model": model.identity,
        "base_model": sources.base_model_digest(base.source, base.revision),
        "champion": champion.model if champion else "none",
    }
    if anchor := contest.anchor(context.recipe):
        for sentence in reading.left_out(anchor).values():
            print(f"warning: {anchor.source}: {sentence}", file=sys.stderr, flush=True)
        digests["anchor"] = sha256([reading.digest(anchor), anchor.columns.text, anchor.columns.label, anchor.quoting])
    return digests


def work(context: Context) -> Outcome:
    """Judges, draws, reports, and tells MLflow."""
    from components.evaluate import plots, report, tracking
    from regraft import tracking as mlflow_server

    client = mlflow_server.connect()  # before the work: a server that is away should cost nothing
    mlflow_server.ready(client, context.recipe.name)
    model, data = context.result("finetune"), context.result("validate")
    opponent = context.ledger.opponent(model.identity)
    found = contest.decide(context, model=model, opponent=opponent, data=data, measure_latency=True)
    verdict = found.verdict
    (context.out / "verdict.json").write_text(verdict.model_dump_json(indent=1))
    report.write_predictions(context.out / "predictions.parquet", found)
    names = context.recipe.data.labels
    drawn = plots.draw(context.out / "plots", found, names)
    measured = {} if found.latency_ms is None else {"latency_ms": found.latency_ms}
    (context.out / "report.html").write_text(
        report.render(context, found, data=data, model=model, plots=drawn, measured=measured)
    )
    tracking.log(client, context, model=model, verdict=verdict, measured=measured)
    metrics = {"verdict": verdict.verdict, "challenger": verdict.challenger.metrics}
    if verdict.champion:
        metrics["champion"] = verdict.champion.metrics
    refused = None if verdict.verdict == "promote" else verdict.sentence
    return Outcome(metrics=metrics, measured=measured, views=("report.html",), refused=refused)
