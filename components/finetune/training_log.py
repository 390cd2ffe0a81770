"""What training tells MLflow while it runs. Once it has begun, a failing log call is a warning, not an end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from regraft import tracking
from regraft.step import Work

RETRY_AFTER = 30
"""Seconds that training goes on undisturbed after MLflow has not answered."""


@dataclass
class Log:
    """Metrics on their way to MLflow. What it does not take is kept, and sent again with later ones."""

    client: Any
    run_id: str
    _waiting: list[Any] = field(default_factory=list)
    _retry_at: float = 0.0

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Sends values of one training step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() >= self._retry_at:
            self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        if not self._waiting:
            return
        try:
            self.client.log_batch(self.run_id, metrics=self._waiting)
        except Exception as error:  # whatever MLflow or its server raises: hours of training are worth more
            reason = str(error).splitlines()[0][:200]
            print(f"finetune: MLflow does not take metrics, training goes on: {reason}", file=sys.stderr, flush=True)
            self._retry_at = time.monotonic() + RETRY_AFTER
        else:
            self._waiting = []


class _Silent:
    def log_batch(self, *arguments: object, **options: object) -> None:
        """Takes everything, tells nobody."""


@contextmanager
def no_run() -> Iterator[Log]:
    """A log that goes nowhere: of the training processes beside the first."""
    yield Log(_Silent(), "")


@contextmanager
def mlflow_run(context: Work) -> Iterator[Log]:
    """The MLflow run of this finetune, new or continued, with its parameters, tags and system metrics.

    Raises:
        Temporary: MLflow does not answer, before any training.
    """
    client = tracking.connect()
    tracking.prepare(client, context.recipe.name, context.recipe.gates.metric)
    import mlflow
    from mlflow.entities import Param, RunTag
    from mlflow.exceptions import MlflowException

    params = {
        **{f"training.{key}": value for key, value in context.recipe.training.model_dump(mode="json").items()},
        **{f"adapter.{key}": value for key, value in context.recipe.adapter.model_dump(mode="json").items()},
        **{f"digest.{key}": value for key, value in context.inputs.items()},
    }
    tags = {  # not parameters: those cannot change, and none of these is part of the identity
        "regraft.run": context.run,
        "regraft.owner": context.recipe.owner,
        "regraft.base_model": context.recipe.base_model.source,
    }
    with tracking.answering():
        run_id = tracking.run_of(client, context.recipe.name, context.identity, context.run)
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        run = mlflow.start_run(run_id=run_id, log_system_metrics=True)
    with run:
        log, mlflow_status = Log(client, run_id), "FAILED"
        try:
            yield log
            mlflow_status = "FINISHED"
        finally:
            log.flush()
            try:
                mlflow.end_run(mlflow_status)
            except MlflowException as error:
                print(f"finetune: MLflow does not take the end of the run: {error}", file=sys.stderr)
