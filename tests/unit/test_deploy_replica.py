"""How a replica is asked what it serves, by a server that answers as Triton does, and by what is none."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from components.deploy import replica
from components.deploy.replica import NotServed, Unreachable
from regraft.errors import Temporary

ANSWERS: dict[str, tuple[int, bytes]] = {}


@pytest.fixture
def server() -> Iterator[str]:
    """host:port of a server that gives ANSWERS by path, empty where it has none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = ANSWERS.get(self.path, (200, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    ANSWERS.clear()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=serving.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def test_the_index_names_state_and_reason_of_each_version(server: str) -> None:
    known = b'[{"name": "m", "version": "2", "state": "READY"}, {"name": "m"}, {"name": "n", "version": "1"}]'
    ANSWERS["/v2/repository/index"] = (200, known)
    assert replica.index(f"http://{server}/", "m") == {2: ("READY", "")}
    assert replica.ready(server, "m") == {2}


def test_a_load_that_fails_says_why(server: str) -> None:
    ANSWERS["/v2/repository/models/m/load"] = (400, b'{"error": "no such file"}')
    with pytest.raises(NotServed, match="no such file"):
        replica.load(server, "m", [1])


def test_a_load_counts_only_when_the_index_says_so(server: str) -> None:
    with pytest.raises(NotServed, match="version 1 is UNKNOWN"):
        replica.load(server, "m", [1])


@pytest.mark.parametrize("answer", [(200, b"<html>hello"), (503, b"busy"), (401, b""), (404, b'["no"]')])
def test_what_is_no_triton_or_not_well_is_temporary_and_says_what_it_answered(
    server: str, answer: tuple[int, bytes]
) -> None:
    ANSWERS["/v2/repository/index"] = answer
    with pytest.raises(Temporary, match=r"hello|busy|401|404"):
        replica.index(server, "m")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:http", "a..b:8000", f"{'a' * 70}.example:80"])
def test_an_address_at_which_nobody_answers_is_unreachable(address: str) -> None:
    with pytest.raises(Unreachable, match="Triton cannot be reached"):
        replica.reach(address)
