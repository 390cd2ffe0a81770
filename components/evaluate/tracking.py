"""What MLflow shows of an evaluation, on the run of the finetune."""

from __future__ import annotations

import time
from typing import Any

from regraft import tracking
from regraft.gate import Verdict
from regraft.step import Context
from regraft.store import Manifest


def log(client: Any, context: Context, *, model: Manifest, verdict: Verdict, measured: dict[str, float]) -> None:
    """Adds metrics, verdict, plots and report. System metrics stay off: their thread can deadlock with matplotlib.

    Raises:
        Temporary: MLflow went away.
    """
    from mlflow.entities import Metric, RunTag

    values = {f"holdout.{name}": value for name, value in verdict.challenger.metrics.items()}
    if verdict.challenger.calibration_error is not None:
        values["holdout.calibration_error"] = verdict.challenger.calibration_error
    if verdict.champion:
        values |= {f"champion.{name}": value for name, value in verdict.champion.metrics.items()}
    if verdict.difference:
        values |= {f"difference.{part}": getattr(verdict.difference, part) for part in ("point", "low", "high")}
    values |= measured
    now = int(time.time() * 1000)
    with tracking.answering():
        run_id = tracking.run_of(client, context.recipe.name, model.identity)
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in values.items()],
            tags=[
                RunTag("regraft.verdict", verdict.verdict),
                RunTag("mlflow.note.content", verdict.sentence),
            ],
        )
        client.log_artifacts(run_id, str(context.out), "evaluation")
