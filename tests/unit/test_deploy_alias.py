"""MLflow's alias after a rollout: whatever its credentials are, deploy has ended well."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import alias
from regraft.ledger import Ledger
from regraft.store import Store

asked: list[str | None] = []


class Refuses(http.server.BaseHTTPRequestHandler):
    """A server that remembers who asked, and says no."""

    def do_GET(self) -> None:
        asked.append(self.headers["Authorization"])
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tells nobody."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.server_port}")
        yield
        listening.shutdown()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("password", ["plain", "5 €", "\u4e2d\u6587", "\udcff"])
def test_a_password_is_sent_in_utf_8_as_mlflows_client_sends_it(
    password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    alias.update("tiny", Ledger(Store(str(tmp_path), "tiny")))
    assert "alias champion was not set: status 401" in capsys.readouterr().err
    (sent,) = asked
    assert base64.b64decode(str(sent).removeprefix("Basic ")) == f"me:{password}".encode(errors="surrogateescape")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("token", ["5 €", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_only_named(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    alias.update("tiny", Ledger(Store(str(tmp_path), "tiny")))
    assert "next: regraft doctor --repair" in capsys.readouterr().err
