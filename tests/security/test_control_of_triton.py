"""Who may ask a model for its answer may not control the server: load code, reach into its memory, write its logs."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.deploy import replica
from regraft import settings, stack
from regraft.errors import BadInput
from tests import grpc_calls

pytestmark = pytest.mark.slow

CODE = """
import pathlib, triton_python_backend_utils
pathlib.Path({mark!r}).touch()
class TritonPythonModel:
    def execute(self, requests):
        return []
"""
CONFIG = {
    "name": "foreign",
    "backend": "python",
    "input": [{"name": "IN", "data_type": "TYPE_INT8", "dims": [1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_INT8", "dims": [1]}],
}
PAGE = {"Content-Type": "text/plain", "Origin": "https://foreign.example", "Host": "foreign.example:8000"}
"""What a browser sends for a page of somebody else, without asking first, also where a name leads to this machine."""
OVER_HTTP = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/foreign/load"),
    ("POST", "/v2/repository/models/foreign/unload"),
    *(
        (method, f"/v2/{memory}sharedmemory{path}")
        for memory in ("system", "cuda")
        for method, path in (("GET", "/status"), ("POST", "/region/all/register"), ("POST", "/unregister"))
    ),
    *((method, f"/v2/{what}") for method in ("GET", "POST") for what in ("trace/setting", "logging")),
]
OVER_GRPC = [
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *(f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")),
    *("TraceSetting", "LogSettings"),
]


@dataclass(frozen=True)
class Laptop:
    """A stack that `up` started, without a token of the user's own."""

    home: Path
    triton: stack.Server

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "{}"
    ) -> tuple[int, str]:
        """Status and text of the answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.triton.ports["http"], timeout=60)) as connection:
            connection.request(method, path, body if method == "POST" else None, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    if not stack.TRITONSERVER.exists() and "REGRAFT_TRITONSERVER" not in os.environ:
        pytest.skip("no Triton server is there: make triton")
    home = tmp_path_factory.mktemp("laptop") / ".regraft"
    with pytest.MonkeyPatch.context() as environment:
        for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS", "REGRAFT_TRITON_TOKEN"):
            environment.delenv(name, raising=False)
        try:
            running = stack.up(home=home, say=print)
            assert running.triton
            yield Laptop(home, running.triton)
        finally:
            stack.down(home=home, say=print)


def loading(mark: Path) -> str:
    """A request to load a model that is no more than this request: its code leaves a mark."""
    code = base64.b64encode(CODE.format(mark=str(mark)).encode()).decode()
    return json.dumps({"parameters": {"config": json.dumps(CONFIG), "file:1/model.py": code}})


def test_a_foreign_page_in_the_browser_loads_no_code_and_who_has_the_token_does(laptop: Laptop, tmp_path: Path) -> None:
    mark, load = tmp_path / "ran", "/v2/repository/models/foreign/load"
    status, said = laptop.ask("POST", load, PAGE, loading(mark))
    assert (status, mark.exists()) == (403, False), said
    for token in ("", "guessed", settings.TRITON_HEADER):
        assert laptop.ask("POST", load, {**PAGE, settings.TRITON_HEADER: token}, loading(mark))[0] == 403
    assert not mark.exists()
    token = stack.environment(laptop.home)[settings.TRITON_TOKEN]
    status, said = laptop.ask("POST", load, {settings.TRITON_HEADER: token}, loading(mark))
    assert (status, mark.exists()) == (200, True), f"this request would load code, or the test shows nothing: {said}"


@pytest.mark.parametrize(("method", "path"), OVER_HTTP)
def test_control_over_http_wants_the_token(method: str, path: str, laptop: Laptop) -> None:
    status, said = laptop.ask(method, path)
    assert status == 403
    assert "restricted" in said
    token = stack.environment(laptop.home)[settings.TRITON_TOKEN]
    assert "restricted" not in laptop.ask(method, path, {settings.TRITON_HEADER: token})[1]


@pytest.mark.parametrize("method", OVER_GRPC)
def test_control_over_grpc_wants_the_token(method: str, laptop: Laptop) -> None:
    port = laptop.triton.ports["grpc"]
    status, said = grpc_calls.call(port, method)
    assert "restricted" in said
    assert status != "0"
    token = stack.environment(laptop.home)[settings.TRITON_TOKEN]
    assert "restricted" not in grpc_calls.call(port, method, triton_grpc_protocol_regraft_token=token)[1]


def test_what_is_for_everybody_needs_no_token(laptop: Laptop) -> None:
    assert laptop.ask("GET", "/v2/health/ready")[0] == 200
    assert grpc_calls.call(laptop.triton.ports["grpc"], "ServerReady")[0] == "0"


def test_the_token_is_for_who_started_the_stack_only(laptop: Laptop) -> None:
    file = laptop.home / "triton.token"
    token = file.read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    seen, held = list[str](), list[str]()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen.append((process / "cmdline").read_text(errors="replace"))
            held.append((process / "environ").read_text(errors="replace"))
        except OSError:  # it has ended, or is another user's
            continue
    assert not [line for line in seen if token in line]
    assert [text for text in held if token in text], "Triton has it all the same"
    for name in ("triton.log", "mlflow.log"):
        assert token not in (laptop.home / "logs" / name).read_text()


def test_a_token_goes_with_the_server_that_it_is_of(
    laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.TRITON_TOKEN, "of-another-server")
    assert stack.environment(laptop.home)[settings.TRITON_TOKEN] == (laptop.home / "triton.token").read_text()
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:8000")
    assert stack.environment(laptop.home)[settings.TRITON_TOKEN] == "of-another-server"


def test_a_token_that_is_no_header_is_refused_and_not_shown(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.TRITON_TOKEN, "a-secret\r\nHost: elsewhere")
    with pytest.raises(BadInput, match="no header takes") as raised:
        replica.index(laptop.triton.url, "foreign")
    assert "a-secret" not in str(raised.value)
