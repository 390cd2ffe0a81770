"""What happens to metrics when MLflow is away in the middle of a training."""

from __future__ import annotations

from typing import Any

import pytest

from components.finetune import training_log
from components.finetune.training_log import Log


class Away:
    """Stands for MLflow's client: it fails so many times, then takes what it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[tuple[str, int]] = []
        self.asked = 0

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server is away")
        self.taken += [(metric.key, metric.step) for metric in metrics]


def test_metrics_that_mlflow_did_not_take_are_sent_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_log, "RETRY_AFTER", 0)
    client = Away(failures=2)
    log = Log(client, "run")
    for step in range(4):
        log.metrics({"loss": 1.0 / (step + 1)}, step)
    assert client.taken == [("loss", step) for step in range(4)]
    assert "training goes on: the server is away" in capsys.readouterr().err


def test_a_server_that_is_away_is_not_asked_at_each_step() -> None:
    client = Away(failures=1_000)
    log = Log(client, "run")
    for step in range(50):
        log.metrics({"loss": 1.0}, step)
    assert client.asked == 1
    log.flush()
    assert client.asked == 2
