"""What a client sends ends neither Triton nor its answers to others, as far as docs/kubernetes.md promises.

tritonserver 2.51 reads JSON, forms and chunks by recursion. After each attack the same process answers a request.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.deploy import front, nesting, serve
from regraft import settings, stack
from regraft.errors import BadInput
from tests import grpc_calls
from tests.unit.test_serve import FORM, answers, says, send, until

INFER, GENERATE = "/v2/models/says/infer", "/v2/models/says/generate"
CHUNKED = "Transfer-Encoding: chunked\r\n"
TEXT = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["film"]}
SOUND = {"inputs": [TEXT]}
MIB = 1 << 20


def tensors(header: int | str) -> str:
    return f"Inference-Header-Content-Length: {header}\r\n"


def nested(request: dict[str, Any], size: int = MIB - 200) -> bytes:
    """A request with lists within lists where "@" stands, of about so many bytes."""
    return json.dumps(request).replace('"@"', "[" * (size // 2) + "]" * (size // 2)).encode()


DEEP = {
    "lists": (INFER, "", b"[" * MIB),
    "objects": (INFER, "", b'{"a":' * (MIB // 5)),
    "both": (INFER, "", b'[{"":' * (MIB // 5)),
    "inputs": (INFER, "", nested({"inputs": "@"})),
    "inputs-open": (INFER, "", b'{"inputs":' + b"[" * 200_000),
    "data": (INFER, "", nested({"inputs": [{**TEXT, "data": "@"}]})),
    "shape": (INFER, "", nested({"inputs": [{**TEXT, "shape": "@"}]})),
    "parameters-of-input": (INFER, "", nested({"inputs": [{**TEXT, "parameters": {"a": "@"}}]})),
    "parameters": (INFER, "", nested({**SOUND, "parameters": {"a": "@"}})),
    "outputs": (INFER, "", nested({**SOUND, "outputs": "@"})),
    "id": (INFER, "", nested({**SOUND, "id": "@"})),
    "tensors": (INFER, tensors(900_000), nested({"inputs": "@"}, 899_000) + b" " * MIB),
    "generate": (GENERATE, "", nested({"text": "@"})),
    "stream": (f"{GENERATE}_stream", "", nested({"text": "@"})),
}
CONTROL = {
    path: (path, "", nested({"parameters": "@"}))
    for path in (
        "/v2/repository/index",
        "/v2/repository/models/says/load",
        "/v2/repository/models/says/unload",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/systemsharedmemory/region/a/register",
    )
}
LARGE = {
    "form": ("/", FORM, b"a" * (5 * MIB)),
    "form-of-pairs": (INFER, FORM, b"a=b&" * (5 * MIB // 4)),
    "chunks": (INFER, CHUNKED, b"1\r\na\r\n" * 1_200_000),
    "5-MiB-of-data": (INFER, "", nested({"inputs": [{**TEXT, "data": "@"}]}, 5 * MIB)),
}
BARE = {**DEEP, **CONTROL, **LARGE}
REFUSED = {
    **LARGE,
    "too-large-chunks": (INFER, CHUNKED, (b"10000\r\n" + b"[" * 65536 + b"\r\n") * 17),
    "header-of-no-number": (INFER, tensors("1x"), b"[" * (2 * MIB)),
    "header-of-too-much": (INFER, tensors(2 * MIB), b"[" * (2 * MIB)),
    "not-for-infer": ("/v2/repository/index", tensors(10), b"[" * (2 * MIB)),
    "for-infer-by-query": (f"/v2/repository/index?{INFER}", tensors(10), b"[" * (2 * MIB)),
    "for-infer-by-dots": (f"/v2/repository/index%2f..%2f..%2f..{INFER}", tensors(10), b"[" * (2 * MIB)),
    "too-large-tensors": (INFER, tensors(10), b"[" * (65 * MIB)),
}
"""What nginx keeps off: of JSON it takes 1 MiB, and 64 MiB of anything."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if not stack.TRITONSERVER.exists() and "REGRAFT_TRITONSERVER" not in os.environ:
        pytest.skip("no Triton server is there: make triton")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Running]:
    """As trials and the laptop have it: nothing in front."""
    folder = tmp_path_factory.mktemp("bare")
    with serve.running(repository=says(folder / "models"), log=folder / "log", token="only-for-tests") as server:
        yield server


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Running]:
    """As in the image: nginx takes the HTTP requests, and `serve` has become the server."""
    try:
        front.nginx()
    except BadInput:
        pytest.skip("no nginx is there; tests/images/test_front.py asks that of the image")
    folder, ports = tmp_path_factory.mktemp("fronted"), serve.free_ports()
    command = [sys.executable, "-m", "components.deploy.serve", "--front", f"--repository={says(folder / 'models')}"]
    command += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    environment = {**os.environ, "TMPDIR": str(folder), settings.TRITON_TOKEN: "only-for-tests"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: answers(ports.http, "/v2/models/says/ready"), process, folder / "log")
        yield serve.Running(process=process, ports=ports, log=folder / "log")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def attack(server: serve.Running, path: str, headers: str, body: bytes) -> int:
    """The status of the answer to an attack, after which the same process answers as before."""
    said = send(server.ports.http, path, headers, body)
    assert server.process.poll() is None, server.log.read_text(errors="replace")[-3000:]
    assert b'"good"' in send(server.ports.http, INFER, "", json.dumps(SOUND).encode())
    assert server.process.poll() is None, server.log.read_text(errors="replace")[-3000:]
    return int(said.split()[1])


@pytest.mark.parametrize("what", BARE)
def test_a_server_survives_what_nests_or_is_large(what: str, bare: serve.Running) -> None:
    assert attack(bare, *BARE[what]) >= (200 if what == "parameters-of-input" else 400)


@pytest.mark.parametrize("what", {**DEEP, **CONTROL})
def test_behind_nginx_it_survives_what_nests(what: str, fronted: serve.Running) -> None:
    assert attack(fronted, *{**DEEP, **CONTROL}[what]) >= (200 if what == "parameters-of-input" else 400)


@pytest.mark.parametrize("what", REFUSED)
def test_nginx_keeps_off_what_is_large(what: str, fronted: serve.Running) -> None:
    assert attack(fronted, *REFUSED[what]) == 413


def test_tensors_may_be_larger_than_json(fronted: serve.Running) -> None:
    text = b"a" * (20 * MIB)
    body = len(text).to_bytes(4, "little") + text
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    said = send(fronted.ports.http, INFER, tensors(len(head)), head + body)
    assert b" 200 OK" in said, said
    large = json.dumps(tensor | {"data": ["a" * (MIB - 400)]} | {"parameters": {}})
    assert attack(fronted, INFER, "", b'{"inputs": [%s]}' % large.encode()) == 200


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "ServerReady"])
def test_groups_within_groups_over_grpc_end_nothing(method: str, bare: serve.Running) -> None:
    grpc_calls.call(bare.ports.grpc, method, b"\x0b" * 16_000)
    assert b'"good"' in send(bare.ports.http, INFER, "", json.dumps(SOUND).encode())
    assert bare.process.poll() is None


def test_the_programs_of_models_have_their_server_s_stacks_and_take_no_memory_for_it(bare: serve.Running) -> None:
    stub = next(
        process
        for process in Path("/proc").glob("[0-9]*")
        if b"triton_python_backend_stub" in (process / "cmdline").read_bytes()
        and f"PPid:\t{bare.process.pid}\n" in (process / "status").read_text()
    )
    assert f"{nesting.STACK_BYTES}" in (stub / "limits").read_text()
    status = dict(line.split(":\t", 1) for line in (stub / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["VmRSS"].split()[0]) < 200 << 10


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("STACK", (8 * MIB, 64 * MIB), "serve: stacks of 64 MiB, not of 1024 MiB: the hard limit is lower"),
        ("STACK", (resource.RLIM_INFINITY, resource.RLIM_INFINITY), ""),
        ("AS", (8 << 30, 8 << 30), "serve: stacks of 8 MiB, not of 1024 MiB: the address space is limited"),
    ],
)
def test_where_stacks_cannot_be_deep_a_server_starts_all_the_same_and_says_so(
    limit: str, value: tuple[int, int], why: str, tmp_path: Path
) -> None:
    """An infinite limit would give threads 2 MiB."""
    script = f"""
import resource, sys
from pathlib import Path
from components.deploy import serve
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
resource.setrlimit(resource.RLIMIT_{limit}, {value})
with serve.running(repository=Path({str(says(tmp_path / "models"))!r}), log=Path("log"), server=sys.argv[1]) as server:
    print(Path(f"/proc/{{server.process.pid}}/limits").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, serve.home()], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "log").read_text()
    assert why in log
    assert ("serve: stacks of" in log) == bool(why)
    soft = next(line for line in done.stdout.splitlines() if line.startswith("Max stack size")).split()[3]
    assert int(soft) == {"STACK": min(nesting.STACK_BYTES, value[1] % (1 << 64)), "AS": 8 * MIB}[limit]
