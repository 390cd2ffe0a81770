"""What is known of the laptop stack from its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regraft import stack
from regraft.cli import app


def test_status_says_how_often_triton_died_and_of_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stack.deaths() == []
    logs = tmp_path / ".regraft" / "logs"
    logs.mkdir(parents=True)
    lines = [f"2026-11-27 21:0{minute}:00 UTC died of signal 11 (SIGSEGV)" for minute in (1, 2)]
    (logs / "triton.deaths").write_text("\n".join(lines) + "\n")
    assert stack.deaths() == []  # of an earlier stack, which is down
    server = stack.Server(url="http://127.0.0.1:1", pid=os.getpid(), created=0, log="log", ports={"http": 1})
    (tmp_path / ".regraft" / "stack.json").write_text(stack.Stack(triton=server).model_dump_json())
    assert stack.deaths() == lines
    said = " ".join(CliRunner().invoke(app, ["status"]).stderr.split())
    assert f"died and was started again, 2 in all, the last: {lines[1]}; see .regraft/logs/triton.log" in said
