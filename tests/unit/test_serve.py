"""The command that an image or a laptop starts Triton with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from components.deploy import replica, serve


@pytest.mark.slow
def test_serve_becomes_a_server_with_metrics_whose_own_options_can_be_added_and_which_ends_on_sigterm(
    tmp_path: Path,
) -> None:
    ports = serve.free_ports()
    command = [sys.executable, "-m", "components.deploy.serve", f"--repository={tmp_path / 'models'}"]
    command += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    command += ["--exit-timeout=3", "--", "--allow-cpu-metrics=true", "--metrics-interval-ms=100"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline, metrics = time.monotonic() + 60, ""
        while "nv_cpu_utilization " not in metrics:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, metrics
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=5) as answer:
                    metrics = answer.read().decode()
            except OSError:
                continue
        assert "--exit-timeout-secs=3" in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_with_a_token_only_who_has_it_may_control_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setenv(replica.TOKEN, "only-for-tests")
    with serve.running(repository=tmp_path / "models", log=tmp_path / "log") as server:
        command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert replica.index(server.address, "none") == {}
        for token in ("", "another"):
            monkeypatch.setenv(replica.TOKEN, token)
            replica.reach(server.address)  # health and predictions are for everybody
            with pytest.raises(replica.NotServed, match="restricted"):
                replica.load(server.address, "none", [1])
    # no client of gRPC is in this environment, so that Triton was told has to do
    assert f"--grpc-restricted-protocol={serve.CONTROL}:{replica.HEADER}=only-for-tests" in command.split("\0")
