"""Containers of the images under test, strict as Kubernetes' policy "restricted"; only /tmp can be written to."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOCKER = os.environ.get("DOCKER", "docker")
REGISTRY = os.environ.get("REGRAFT_REGISTRY", "")
TAG = os.environ.get("REGRAFT_TAG", "0.1.0")
STEPS = ("validate", "finetune", "evaluate", "promote", "deploy")
SERVERS = ("mlflow", "triton", "openai", "airflow")


def image(name: str) -> str:
    return f"{REGISTRY}regraft-{name}:{TAG}"


def docker(*arguments: str, check: bool = True) -> str:
    """What the engine's client prints."""
    done = subprocess.run([DOCKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout


def inspect(name: str) -> dict[str, Any]:
    """What an image declares."""
    found: dict[str, Any] = json.loads(docker("image", "inspect", image(name)))[0]["Config"]
    return found


def command(
    name: str,
    *arguments: str,
    network: str = "none",
    memory: str = "1g",
    mounts: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> list[str]:
    """`run` of an image, its arguments behind it; folders are mounted where they are."""
    return [
        *("run", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *(f"--network={network}", f"--memory={memory}", *options),
        *(f"--volume={folder}:{folder}" for folder in mounts),
        *(f"--env={key}={value}" for key, value in (environment or {}).items()),
        *(image(name), *arguments),
    ]


def run(name: str, *arguments: str, **settings: Any) -> tuple[int, str]:
    """Exit code and output of a container that ends by itself."""
    done = subprocess.run(
        [DOCKER, *command(name, *arguments, **{**settings, "options": ["--rm", *settings.get("options", ())]})],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


class Container:
    """A container that runs in the background."""

    def __init__(self, name: str) -> None:
        self.name = name

    def log(self) -> str:
        return docker("logs", self.name)

    def running(self) -> bool:
        return docker("inspect", "--format={{.State.Running}}", self.name).strip() == "true"

    def health(self) -> str:
        """starting, healthy or unhealthy, as the image's own check says."""
        return docker("inspect", "--format={{.State.Health.Status}}", self.name).strip()

    def stop(self, seconds: int = 60) -> int:
        """Exit code after SIGTERM; 137 where SIGKILL had to follow."""
        docker("stop", f"--time={seconds}", self.name)
        return int(docker("inspect", "--format={{.State.ExitCode}}", self.name))


@contextmanager
def running(name: str, *arguments: str, **settings: Any) -> Iterator[Container]:
    """A container that is removed with the block."""
    container = Container(f"regraft-test-{name}-{uuid.uuid4().hex[:8]}")
    options = ["--detach", f"--name={container.name}", "--health-interval=1s"]
    docker(*command(name, *arguments, **{**settings, "options": [*options, *settings.get("options", ())]}))
    try:
        yield container
    finally:
        docker("rm", "--force", container.name)
