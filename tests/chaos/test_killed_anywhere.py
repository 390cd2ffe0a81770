"""Killed with SIGKILL at three random points inside each step, and run again: as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from regraft import pipeline, servers, stack
from tests.worlds import Tiny

POINTS = 3


@contextmanager
def world(folder: Path, base: Path) -> Iterator[Tiny]:
    """A world with an MLflow server and a Triton server of its own, so that versions count from 1."""
    if not stack.TRITONSERVER.exists() and "REGRAFT_TRITONSERVER" not in os.environ:
        pytest.skip("no Triton server is there: make triton")
    home = folder / ".regraft"
    folder.mkdir()
    try:
        running = stack.up(home=home, say=lambda _: None)
        assert running.mlflow
        assert running.triton
        environment = {
            "MLFLOW_TRACKING_URI": running.mlflow.url,
            "REGRAFT_TRITON_URLS": running.triton.url.removeprefix("http://"),
            "REGRAFT_MODEL_REPOSITORY": str((home / "models").absolute()),
            "REGRAFT_TRITON_TOKEN": stack.triton_token(home) or "",
            "REGRAFT_TRITONSERVER": os.environ.get("REGRAFT_TRITONSERVER", str(stack.TRITONSERVER.absolute())),
        }
        yield Tiny(folder, base, environment)
    finally:
        stack.down(home=home, say=lambda _: None)


def kill_after(tiny: Tiny, step: str, seconds: float) -> None:
    """Starts a step and kills it and all its children that long afterwards."""
    process = tiny.start(step)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def whole(tiny: Tiny, folder: Path) -> None:
    """Whatever the store shows as a result is complete: every file is there and has its SHA-256."""
    for step in pipeline.STEPS:
        for identity in tiny.store.names(step.name):
            manifest = tiny.store.manifest(f"{step.name}/{identity}")
            if manifest:
                tiny.store.fetch(f"{step.name}/{identity}", manifest, folder / identity)


def versions(tiny: Tiny) -> list[int]:
    """Versions that MLflow has registered."""
    url = tiny.environment["MLFLOW_TRACKING_URI"]
    found = servers.ask(f"{url}/api/2.0/mlflow/model-versions/search?filter=name%3D%27tiny%27") or {}
    return sorted(int(entry["version"]) for entry in found.get("model_versions", []))


def digests(tiny: Tiny) -> dict[str, str]:
    return {step.name: tiny.result(step.name).digest for step in pipeline.STEPS}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_anywhere_ends_as_an_undisturbed_one(tiny_base: Path, tmp_path: Path) -> None:
    chance = random.Random(20261124)
    seconds: dict[str, float] = {}
    with world(tmp_path / "undisturbed", tiny_base) as undisturbed:
        for step in pipeline.STEPS:
            started = time.monotonic()
            undisturbed.through(step.name)
            seconds[step.name] = time.monotonic() - started
        expected = digests(undisturbed)
    with world(tmp_path / "disturbed", tiny_base) as tiny:
        for step in pipeline.STEPS:
            for _ in range(POINTS):
                kill_after(tiny, step.name, chance.uniform(0.05, 0.95) * seconds[step.name])
                whole(tiny, tmp_path / "fetched")
            tiny.through(step.name)
        assert digests(tiny) == expected
        assert versions(tiny) == [1]
        assert [(entry.sequence, entry.version) for entry in tiny.ledger.entries()] == [(1, 1)]
        assert tiny.pointer("deploy")["state"] == "done"
        address = tiny.environment["REGRAFT_TRITON_URLS"]
        assert servers.ask(f"http://{address}/v2/models/tiny/versions/1/ready") == {}
