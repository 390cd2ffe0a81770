"""The database's password stands on no command line: each user of a machine may read those."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from components.deploy import serve
from tests.helm.chart import HELM, pods, rendered

SECRET = "word-of-the-database"


def lines_with(word: str) -> list[str]:
    """The command lines that a word stands on."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            lines.append((process / "cmdline").read_text(errors="replace"))
    return [line for line in lines if word in line]


@pytest.mark.slow
def test_mlflow_that_is_told_its_database_as_compose_and_the_chart_do_shows_it_to_nobody(tmp_path: Path) -> None:
    port = serve.free_ports().http
    database = tmp_path / f"{SECRET}.db"
    settings = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{database}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline, healthy = time.monotonic() + 120, False
        while not healthy:
            assert not lines_with(SECRET)
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                healthy = True
            time.sleep(0.1)
        assert not lines_with(SECRET)
        assert database.exists(), "it is told its database by the variable"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm")
def test_the_job_that_migrates_the_database_shows_it_to_nobody(tmp_path: Path) -> None:
    (container,) = pods(rendered("ha"))["Job/shop-regraft-mlflow-upgrade"]["spec"]["containers"]
    python, *words = container["command"]
    assert python == "python"
    database = tmp_path / f"{SECRET}.db"
    process = subprocess.Popen(
        [sys.executable, *words], env={**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{database}"}
    )
    while process.poll() is None:
        assert not lines_with(SECRET)
        time.sleep(0.1)
    assert process.returncode == 0
    assert database.exists()
