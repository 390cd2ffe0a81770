"""What is known of the laptop stack from its files."""

from __future__ import annotations

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regraft import stack
from regraft.cli import app
from regraft.errors import Temporary


def test_status_says_how_often_triton_died_and_of_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stack.deaths() == []
    logs = tmp_path / ".regraft" / "logs"
    logs.mkdir(parents=True)
    lines = [f"2026-11-27 21:0{minute}:00 UTC died of signal 11 (SIGSEGV)" for minute in (1, 2)]
    (logs / "triton.deaths").write_text("\n".join(lines) + "\n")
    assert stack.deaths() == []  # of an earlier stack, which is down
    server = stack.Server(url="http://127.0.0.1:1", pid=os.getpid(), mark="", log="log", ports={"http": 1})
    (tmp_path / ".regraft" / "stack.json").write_text(stack.Stack(triton=server).model_dump_json())
    assert stack.deaths() == lines
    said = " ".join(CliRunner().invoke(app, ["status"]).stderr.split())
    assert f"died and was started again, 2 in all, the last: {lines[1]}; see .regraft/logs/triton.log" in said


def test_a_server_is_known_by_its_mark_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    ours = stack._start("sleeping", ["sleep", "60"], tmp_path, {"http": 1}, {})
    try:
        assert ours.alive
        assert not ours.model_copy(update={"mark": "of an earlier process of this pid"}).alive
    finally:
        os.kill(ours.pid, signal.SIGKILL)
        os.waitpid(ours.pid, 0)
    assert not ours.alive


def test_a_stack_that_has_ended_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS"):
        monkeypatch.delenv(name, raising=False)
    ended = stack.Server(url="http://127.0.0.1:1", pid=os.getpid(), mark="another", log="the log", ports={"http": 1})
    (tmp_path / "stack.json").write_text(stack.Stack(mlflow=ended).model_dump_json())
    with pytest.raises(Temporary, match="what was started has ended, see the log"):
        stack.environment(tmp_path)


class Yes(BaseHTTPRequestHandler):
    """Says to whatever is asked that it is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def test_a_server_of_another_that_took_the_port_first_is_not_taken_for_the_stacks_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = HTTPServer(("127.0.0.1", 0), Yes)
    threading.Thread(target=others.serve_forever, daemon=True).start()
    ports = iter([others.server_port, stack.free_port(0), stack.free_port(0)])

    def start(home: Path) -> stack.Server:
        """A server that starts as slowly as the real ones."""
        port = next(ports)
        serving = f"import sys, time; sys.path[:0] = {sys.path!r}; from tests.unit.test_stack import HTTPServer, Yes; "
        serving += f"time.sleep(1); HTTPServer(('127.0.0.1', {port}), Yes).serve_forever()"
        return stack._start("slow", [sys.executable, "-c", serving], home, {"http": port}, {})

    monkeypatch.setattr(stack, "_mlflow", start)
    monkeypatch.setattr(stack, "_triton", start)
    said = list[str]()
    up = stack.up(home=tmp_path, say=said.append)
    try:
        assert up.running
        assert up.mlflow
        assert up.mlflow.url != f"http://127.0.0.1:{others.server_port}"
        assert f"mlflow: another took port {others.server_port} first, starting at {up.mlflow.url}" in said
        assert stack.read(tmp_path) == up
    finally:
        stack.down(home=tmp_path, say=said.append)
        others.shutdown()
        others.server_close()
    assert not up.running
