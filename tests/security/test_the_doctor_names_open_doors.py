"""`regraft doctor --security`, against a real Triton with and without a token, and a real MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.deploy import serve
from regraft import security, settings
from regraft.cli import app
from regraft.errors import Exit


def opened(*arguments: str) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and what it says of each that is open."""
    done = CliRunner().invoke(app, ["doctor", "--security", "--json", *arguments])
    doors: dict[str, list[str]] = {}
    for door in json.loads(done.stdout[done.stdout.index("[") :]):
        if door["open"]:
            assert door["next"], "what to type"
            doors.setdefault(door["name"], []).append(door["says"])
    return done.exit_code, doors


@pytest.mark.slow
def test_a_triton_without_a_token_and_an_old_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv(settings.TRITON_TOKEN, raising=False)
    (tmp_path / "models").mkdir()
    home = serve.home(Path(__file__).parents[2] / ".cache/tritonserver")
    for token in (None, "a" * 32):
        with serve.running(repository=tmp_path / "models", log=tmp_path / "log", server=home, token=token) as server:
            monkeypatch.setenv("REGRAFT_TRITON_URLS", server.address)
            code, doors = opened()
        assert code == Exit.BAD_INPUT
        says = doors[f"Triton {server.address}"]
        assert any("load models" in said for said in says) == (token is None)
        assert any("is version 2.51" in said for said in says), "the PyPI package has no newer one"


def test_an_mlflow_of_this_machine_is_no_open_door_and_one_that_is_away_is_none(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REGRAFT_TRITON_URLS", raising=False)
    for uri, says in ((mlflow_server, "answers without a password"), ("http://127.0.0.1:9", "does not answer")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert opened() == (Exit.DONE, {})
        assert any(says in door.says for door in security.doors())
    monkeypatch.setattr(security, "_loopback", lambda url: False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    _, doors = opened()
    assert ["answers without a password" in said for said in doors[f"MLflow {mlflow_server}"]] == [True, False]


@pytest.mark.parametrize("name", ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_allowed_pickles_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("REGRAFT_TRITON_URLS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "true")
    code, doors = opened()
    assert code == Exit.BAD_INPUT
    assert list(doors) == [name]


@pytest.mark.parametrize(
    ("product", "version", "is_open"),
    [
        ("mlflow", "3.10.1", True),
        ("mlflow", "3.11.0", False),
        ("vllm", "0.17.2", True),
        ("vllm", "0.32.0", False),
        ("triton", "2.66.0", True),
        ("triton", "2.67.0", False),
        ("triton", None, True),
    ],
)
def test_versions_below_known_floors_are_open(product: str, version: str | None, is_open: bool) -> None:
    assert security._version(product, product, version, "what to type").open == is_open


def test_the_compiler_that_torch_brings_is_not_taken_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security.importlib.metadata, "version", lambda package: "2.1.0")
    assert {door.name: door.open for door in security.doors({})} == {"package mlflow": True, "package vllm": False}


def test_what_recipes_may_name_beyond_buckets_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "s3,file")
    monkeypatch.setenv("REGRAFT_VARIABLES", "OUR_BUCKET")
    assert opened() == (Exit.DONE, {})
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "s3,https,sftp")
    monkeypatch.setenv("REGRAFT_VARIABLES", "OUR_BUCKET,AWS_SECRET_ACCESS_KEY")
    code, doors = opened()
    assert code == Exit.BAD_INPUT
    assert "recipes may name https, sftp" in doors["REGRAFT_PROTOCOLS"][0]
    assert "recipes may name AWS_SECRET_ACCESS_KEY" in doors["REGRAFT_VARIABLES"][0]
