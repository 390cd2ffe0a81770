"""The command that an image or a laptop starts Triton with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from components.deploy import keeper, replica, serve
from regraft import settings


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
    monkeypatch.setenv(settings.TRITON_TOKEN, "only-for-tests")
    with serve.running(repository=tmp_path / "models", log=tmp_path / "log") as server:
        processes = [Path(f"/proc/{server.process.pid}/{what}").read_text() for what in ("cmdline", "environ")]
        assert replica.index(server.address, "none") == {}
        for token in ("", "another"):
            monkeypatch.setenv(settings.TRITON_TOKEN, token)
            replica.reach(server.address)  # health and predictions are for everybody
            with pytest.raises(replica.NotServed, match="restricted"):
                replica.load(server.address, "none", [1])
    assert "only-for-tests" not in processes[0]
    assert "only-for-tests" in processes[1]  # which only its user may read


def answers(port: int, path: str = "/v2/health/ready") -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True
    except OSError:
        return False


def until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


SAYS = """
import numpy as np, triton_python_backend_utils as utils
class TritonPythonModel:
    def execute(self, requests):
        label = utils.Tensor("label", np.array([[b"good"]], np.object_))
        return [utils.InferenceResponse([label]) for request in requests]
"""
CONFIG = """
name: "says" backend: "python" max_batch_size: 8 input { name: "text" data_type: TYPE_STRING dims: [1] }
output { name: "label" data_type: TYPE_STRING dims: [1] }
"""
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"  # what curl -d sends
CLASSIFIED = {
    "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["film"]}],
    "outputs": [{"name": "label", "parameters": {"classification": 1}}],
}
KILLERS = (
    ("/v2/models/says/infer", "", b"[" * (16 << 20), "11 (SIGSEGV)"),
    ("/v2/models/says/infer", "", json.dumps(CLASSIFIED).encode(), "8 (SIGFPE)"),
)
"""What ends tritonserver 2.51: path, headers, body and signal. docs/kubernetes.md says what is kept off it, and
tests/security/test_bodies_end_no_server.py what ends it no longer."""


def says(repository: Path) -> Path:
    """Puts a model that answers everything alike into a repository."""
    (repository / "says" / "1").mkdir(parents=True)
    (repository / "says" / "1" / "model.py").write_text(SAYS)
    (repository / "says" / "config.pbtxt").write_text(CONFIG)
    return repository


def send(port: int, path: str, headers: str, body: bytes) -> bytes:
    """Sends a request, and gives the beginning of its answer; nothing where there is none."""
    if "chunked" not in headers:
        headers += f"Content-Length: {len(body)}\r\n"
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode() + body)
        connection.sendall(b"0\r\n\r\n" if "chunked" in headers else b"")
        return connection.recv(1000)
    return b""


@pytest.mark.slow
def test_a_kept_server_that_clients_killed_serves_again_at_the_same_address_and_says_so(tmp_path: Path) -> None:
    ports, deaths, log = serve.free_ports(), tmp_path / "deaths", tmp_path / "log"
    command = [sys.executable, "-m", "components.deploy.serve", f"--repository={says(tmp_path / 'models')}"]
    command += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    with log.open("w") as output:
        process = subprocess.Popen([*command, f"--restart={deaths}"], stdout=output, stderr=output)

    def serves_after(count: int) -> bool:
        died = len(deaths.read_text().splitlines()) if deaths.exists() else 0
        return died == count and answers(ports.http, "/v2/models/says/ready")

    try:
        until(partial(serves_after, 0), process, log)
        for count, (path, headers, body, number) in enumerate(KILLERS, start=1):
            send(ports.http, path, headers, body)
            until(partial(serves_after, count), process, log)
            assert deaths.read_text().endswith(f"UTC died of signal {number}\n")
            assert f"serve: tritonserver died of signal {number}, death {count} since" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0, log.read_text()
        assert not answers(ports.http)
    finally:
        if process.poll() is None:
            process.kill()  # the server dies with it
            process.wait()


def kept(script: str, deaths: Path, quick: float = keeper.QUICK_SECONDS) -> subprocess.CompletedProcess[str]:
    """What the keeper makes of a server that is this shell script."""
    keeping = (
        "import sys; from pathlib import Path; from components.deploy import keeper;"
        "sys.exit(keeper.keep(['sh', '-c', sys.argv[1]], {}, deaths=Path(sys.argv[2]), prepare=lambda: None,"
        f"say=print, pause=0, quick={quick}))"
    )
    return subprocess.run([sys.executable, "-c", keeping, script, deaths], capture_output=True, text=True, timeout=60)


def test_a_server_that_dies_at_once_again_and_again_is_given_up(tmp_path: Path) -> None:
    done = kept("kill -SEGV $$", tmp_path / "deaths")
    assert done.returncode == 1
    assert done.stdout.count("it is started again") == keeper.MOST_QUICK_DEATHS - 1
    assert "5 times in a row within 20 s: it is not started again" in done.stderr
    assert len((tmp_path / "deaths").read_text().splitlines()) == keeper.MOST_QUICK_DEATHS


@pytest.mark.parametrize("status", [0, 1])
def test_a_server_that_ends_by_itself_at_its_first_start_is_not_started_again(tmp_path: Path, status: int) -> None:
    done = kept(f"exit {status}", tmp_path / "deaths")
    assert done.returncode == status
    assert not (tmp_path / "deaths").exists()


def test_a_server_that_ends_by_itself_after_a_while_is_started_again(tmp_path: Path) -> None:
    done = kept(f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; exit 1; }}", tmp_path / "deaths", quick=0)
    assert done.returncode == 0
    assert (tmp_path / "deaths").read_text().endswith("UTC ended with status 1\n")


def test_options_that_would_move_the_server_away_from_its_front_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "components.deploy.serve", f"--repository={tmp_path}", "--front"]
    done = subprocess.run([*command, "--", "--http-port=9000"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 20
    assert "--http-port=9000 is not for tritonserver here" in done.stderr
