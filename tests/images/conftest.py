"""The images are those that REGRAFT_REGISTRY and REGRAFT_TAG name; `docker`, or what DOCKER says, runs them."""

from __future__ import annotations

import subprocess
from functools import cache

import pytest

from tests.images import containers


@cache
def missing() -> str:
    """Why images cannot be tested here; empty if they can."""
    try:
        found = subprocess.run(
            [containers.DOCKER, "images", "--format={{.Repository}}:{{.Tag}}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine answers: {error}"
    if found.returncode:
        return f"no Docker engine answers: {found.stderr.strip()}"
    absent = {containers.image(name) for name in containers.STEPS + containers.SERVERS} - set(found.stdout.split())
    return f"make images: {', '.join(sorted(absent))} not there" if absent else ""


@pytest.fixture(scope="session")
def images() -> None:
    """Skips where no engine answers or an image is not there."""
    if reason := missing():
        pytest.skip(reason)
