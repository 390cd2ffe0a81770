"""Real servers and a small world, shared by all tests."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.worlds import Tiny


@pytest.fixture(autouse=True)
def mlflow_forgets_its_server() -> Iterator[None]:
    """What a test told MLflow in this process (a global, and a variable, which MLflow sets too) ends with the test."""
    with pytest.MonkeyPatch.context() as before:
        before.setenv("MLFLOW_TRACKING_URI", "")  # so that it is put back, whoever sets it
        before.delenv("MLFLOW_TRACKING_URI")
        yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def tiny_base(bases: Callable[[str], Path]) -> Path:
    """Folder of a BERT with 2 layers and random weights, with its tokenizer."""
    return bases("text-classification")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the base model of a task's world."""
    made: dict[Any, Path] = {}

    def base(task: str) -> Path:
        make = worlds.of(task).base
        if make not in made:
            made[make] = make(tmp_path_factory.mktemp("base"))
        return made[make]

    return base


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real MLflow server on SQLite that serves artifacts itself."""
    with mlflow_running(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@contextmanager
def mlflow_running(folder: Path) -> Iterator[str]:
    """A real MLflow server on what is in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    command += [f"--artifacts-destination={folder}/artifacts"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture(scope="session")
def evaluated(tiny_base: Path, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A world in which a run has passed validate, finetune and evaluate. Do not change it: see `tiny`."""
    world = Tiny(tmp_path_factory.mktemp("evaluated"), tiny_base, {"MLFLOW_TRACKING_URI": mlflow_server})
    world.through("validate", "finetune", "evaluate")
    return world


@pytest.fixture
def tiny(evaluated: Tiny, tmp_path: Path) -> Tiny:
    """A world of one's own in which a run has passed validate, finetune and evaluate."""
    shutil.copytree(evaluated.folder / "store", tmp_path / "store")
    return Tiny(tmp_path, evaluated.base, evaluated.environment)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of a server that speaks S3 (moto)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a store in a fresh bucket; this process and those that it starts have the credentials."""
    import boto3
    import s3fs

    variables = {"AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/prefix"


@pytest.fixture
def client(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an MLflow server in which nothing is registered yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.environment["MLFLOW_TRACKING_URI"])
    from regraft import tracking

    found = tracking.connect()
    for registered in found.search_registered_models():
        found.delete_registered_model(registered.name)
    return found
