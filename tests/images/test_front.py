"""What stands before Triton in its image."""

from __future__ import annotations

import gzip
import http.client
import json
import socketserver
import threading
from pathlib import Path

import pytest
import urllib3

from components.deploy import serve
from tests.images import containers
from tests.images.containers import docker
from tests.images.test_steps import answers, share, wait
from tests.unit.test_serve import send

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]

# A model that answers how long its input is.
IN = {"inputs": [{"name": "IN", "shape": [3], "datatype": "UINT8", "data": [1, 2, 3]}]}
COUNTS = """
import numpy as np, triton_python_backend_utils as utils
class TritonPythonModel:
    def execute(self, requests):
        sizes = [len(utils.get_input_tensor_by_name(each, "IN").as_numpy()) for each in requests]
        return [utils.InferenceResponse([utils.Tensor("OUT", np.array([size], np.int64))]) for size in sizes]
"""


def test_no_body_that_a_client_sends_kills_triton_and_large_tensors_pass(tmp_path: Path) -> None:
    model = tmp_path / "counts"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(COUNTS)
    (model / "config.pbtxt").write_text(
        'name: "counts" backend: "python" max_batch_size: 0 '
        'input { name: "IN" data_type: TYPE_UINT8 dims: [-1] } output { name: "OUT" data_type: TYPE_INT64 dims: [1] }'
    )
    share(tmp_path)
    ports = serve.free_ports()
    arguments = [f"--repository={tmp_path}", f"--http-port={ports.http}", f"--grpc-port={ports.grpc}"]
    arguments += [f"--metrics-port={ports.metrics}", "--exit-timeout=10"]
    settings = {"network": "host", "mounts": [tmp_path], "environment": {"REGRAFT_TRITON_TOKEN": "only-for-tests"}}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with (
        containers.running("triton", *arguments, options=["--shm-size=256m"], **settings) as server,
        urllib3.PoolManager(retries=False) as pool,
    ):
        url = f"http://127.0.0.1:{ports.http}"
        infer = f"{url}/v2/models/counts/infer"
        wait(lambda: answers(f"{url}/v2/health/ready"), server)
        for method, path, headers in (
            ("POST", "/", form),
            ("PUT", "/v2/models/counts/infer", {"content-type": "APPLICATION/X-WWW-FORM-URLENCODED; charset=utf-8"}),
            ("POST", "/v2/models/counts/infer", form),
        ):
            assert pool.request(method, url + path, body=b"a" * (5 << 20), headers=headers).status >= 400
        assert pool.request("POST", infer, body=b"a" * (65 << 20), headers=form).status == 413
        assert pool.request("POST", infer, body=b"[" * (2 << 20)).status == 413
        for deep in (b"[" * (1 << 20), b'{"inputs":' + b"[" * 200_000, b'{"a":' * 200_000):
            assert pool.request("POST", infer, body=deep).status == 500
        answer = pool.request("POST", infer, body=json.dumps(IN).encode(), headers=form)  # as curl -d sends it
        assert answer.json()["outputs"][0]["data"] == [3]
        tensor = bytes(20 << 20)
        size = {"binary_data_size": len(tensor)}
        binary = {"name": "IN", "shape": [len(tensor)], "datatype": "UINT8", "parameters": size}
        head = json.dumps({"inputs": [binary]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = pool.request("POST", infer, body=head + tensor, headers=headers)
        assert answer.json()["outputs"][0]["data"] == [len(tensor)]
        send(ports.http, "/v2/models/counts/infer", "Transfer-Encoding: chunked\r\n", b"1\r\na\r\n" * 1_000_000)
        packed = {"Content-Encoding": "gzip"}
        answer = pool.request("POST", infer, body=gzip.compress(json.dumps(IN).encode()), headers=packed)
        assert answer.status == 415
        assert "no Content-Encoding is taken" in answer.json()["error"]
        control = f"{url}/v2/repository/models/counts/load"
        assert pool.request("POST", control).status == 403
        assert pool.request("POST", control, headers={"regraft-token": "only-for-tests"}).status == 200
        assert "Segmentation" not in server.log()
        assert docker("inspect", "--format={{.RestartCount}}", server.name).strip() == "0"
        assert server.stop() == 0, server.log()


def test_a_triton_that_hangs_up_is_no_answer() -> None:
    """deploy would take an answer for Triton's verdict on a model, and not ask again."""
    port = serve.free_ports().http
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as dead:  # closes each connection
        threading.Thread(target=dead.serve_forever, daemon=True).start()
        command = ["-m", "components.deploy.front", "127.0.0.1", str(port), str(dead.server_address[1])]
        with containers.running("triton", *command, network="host", options=["--entrypoint=python3"]) as container:
            wait(lambda: "RemoteDisconnected" in asked(port), container)
        dead.shutdown()


def asked(port: int) -> str:
    """The status of an answer, or how there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/v2/repository/models/tiny/load", b"{}")
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()
