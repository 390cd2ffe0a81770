"""What training tells MLflow while it runs. Once it has begun, a failing log call is a warning, not an end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from regraft import tracking
from regraft.step import Context


@dataclass
class Log:
    """Calls that reach MLflow if they can."""

    client: Any
    run_id: str
    warned: bool = False

    def metrics(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        entries = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._try(lambda: self.client.log_batch(self.run_id, metrics=entries))

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever MLflow or its server raises: hours of training are worth more
            if not self.warned:
                print(f"finetune: MLflow does not take metrics, training goes on: {error}", file=sys.stderr, flush=True)
            self.warned = True

    def close(self) -> None:
        self.client = _Silent()


class _Silent:
    def log_batch(self, *arguments: object, **options: object) -> None:
        """Takes everything, tells nobody."""


@contextmanager
def no_run() -> Iterator[Log]:
    """A log that goes nowhere: of the training processes beside the first."""
    yield Log(_Silent(), "")


@contextmanager
def mlflow_run(context: Context) -> Iterator[Log]:
    """The MLflow run of this finetune, new or continued, with its parameters, tags and system metrics.

    Raises:
        Temporary: MLflow does not answer, before any training.
    """
    client = tracking.connect()
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
        run_id = tracking.run_of(client, context.recipe.name, context.identity)
        client.log_batch(
            run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        run = mlflow.start_run(run_id=run_id, log_system_metrics=True)
    with run:
        mlflow_status = "FAILED"
        try:
            yield Log(client, run_id)
            mlflow_status = "FINISHED"
        finally:
            try:
                mlflow.end_run(mlflow_status)
            except MlflowException as error:
                print(f"finetune: MLflow does not take the end of the run: {error}", file=sys.stderr)
