"""MLflow as people leave it: what can be restored is, and what cannot work is named before the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from regraft import tracking
from regraft.errors import BadInput, Exit, Temporary
from tests.worlds import RUN, Tiny

pytestmark = pytest.mark.slow


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """URL of an MLflow server with further options."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", *options]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        environment = {**os.environ, **quiet}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_an_experiment_that_somebody_deleted_is_restored(tiny: Tiny, client: Any) -> None:
    identity = tiny.result("finetune").identity
    experiment = client.get_experiment_by_name("tiny").experiment_id
    run = tracking.run_of(client, "tiny", identity, RUN)
    client.delete_experiment(experiment)
    tracking.prepare(client, "tiny", "f1_macro")
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert tracking.run_of(client, "tiny", identity, RUN) == run


def test_the_name_of_a_prompt_is_refused_before_training_and_gets_no_version(tiny: Tiny, client: Any) -> None:
    client.register_prompt("tiny", "Hello {{name}}")
    try:
        code, output = tiny.step("finetune", REGRAFT_FORCE="1")
        assert code == Exit.BAD_INPUT, output
        assert "the name tiny is taken by a prompt" in output
        assert "progress" not in output
        code, output = tiny.step("promote")
        assert code == Exit.BAD_INPUT, output
        with pytest.raises(MlflowException, match="version=2\\) not found"):
            client.get_prompt_version("tiny", "2")
    finally:
        client.delete_prompt_version("tiny", "1")
        client.delete_prompt("tiny")


Connect = Callable[..., Any]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """A client of a server with options of its own, and an experiment whose artifacts are where it says."""
    with served(tmp_path, "--no-serve-artifacts", f"--default-artifact-root={tmp_path}/files") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)

        def connected(location: str | None) -> Any:
            client = tracking.connect()
            client.create_experiment("tiny", artifact_location=location)
            return client

        yield connected


def refused(client: Any) -> str:
    with pytest.raises(BadInput) as raised:
        tracking.prepare(client, "tiny", "f1_macro")
    assert "--serve-artifacts" in str(raised.value.next)
    return str(raised.value)


def test_artifacts_that_cannot_be_sent_from_here_are_refused_before_the_work(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps the credentials of tests before this one
    (tmp_path / "no-folder").touch()
    expected = {
        f"{tmp_path}/no-folder/below": "cannot be written here",
        "s3://bucket/prefix": "Unable to locate credentials",
        "gs://bucket/prefix": "google",
        "mlflow-artifacts:/1": "--no-serve-artifacts",
    }
    for location, what in expected.items():
        client = connect(location)
        assert what in refused(client), location
        identity = client.get_experiment_by_name("tiny").experiment_id
        client.rename_experiment(identity, f"old-{identity}")


def test_a_folder_of_a_server_on_this_machine_will_do(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(None)
    tracking.prepare(client, "tiny", "f1_macro")
    monkeypatch.setattr("regraft.settings.mlflow", lambda: "http://mlflow.example:5000")
    assert "a folder on the server's machine, mlflow.example" in refused(client)


def test_artifacts_whose_server_is_away_may_come_back(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    def away(*_: Any) -> None:
        raise OSError("503 Server Error")

    monkeypatch.setattr(MlflowArtifactsRepository, "list_artifacts", away)
    with pytest.raises(Temporary, match="503"):
        tracking.prepare(client, "tiny", "f1_macro")
