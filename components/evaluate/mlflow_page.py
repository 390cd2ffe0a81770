"""What MLflow shows of an evaluation, on the run of the finetune."""

from __future__ import annotations

import time
from typing import Any

from regraft import tracking, verdicts
from regraft.gate import Verdict
from regraft.manifest import Manifest
from regraft.step import Work


def fill(
    client: Any, context: Work, *, data: Manifest, model: Manifest, verdict: Verdict, measured: dict[str, float]
) -> None:
    """Adds metrics, verdict, plots, report and the data page.

    System metrics stay off: their thread can deadlock with matplotlib.

    Raises:
        Temporary: MLflow went away.
    """
    from mlflow.entities import Metric, RunTag

    values = {f"holdout.{name}": value for name, value in verdict.challenger.metrics.items()}
    own = verdict.challenger.model_extra or {}
    values |= {f"holdout.{name}": value for name, value in own.items() if value is not None}
    if verdict.champion:
        values |= {f"champion.{name}": value for name, value in verdict.champion.metrics.items()}
    if verdict.difference:
        values |= {f"difference.{part}": getattr(verdict.difference, part) for part in ("point", "low", "high")}
    values |= measured
    page = context.fetch(data, "data.html") / "data.html" if "data.html" in data.views else None
    now = int(time.time() * 1000)
    with tracking.answering():
        run_id = tracking.run_of(client, context.recipe.name, model.identity, context.run)
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in values.items()],
            tags=[
                RunTag("regraft.verdict", verdict.verdict),
                RunTag("mlflow.note.content", verdicts.markdown(verdicts.said(verdict.model_dump(mode="json")))),
            ],
        )
        client.log_artifacts(run_id, str(context.out), "evaluation")
        if page is not None:
            client.log_artifact(run_id, str(page), "evaluation")
