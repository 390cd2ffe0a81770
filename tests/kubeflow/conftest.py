"""What the tests of the Kubeflow runner share. kfp is not in this environment: its own one does the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubeflow import api

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "dags/compiled/movie-sentiment.kfp.yaml"
KFP = ROOT / ".venv-kfp" / "bin" / "python"


def regraft(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in kfp's environment."""
    if not KFP.exists():
        pytest.skip("Kubeflow's environment is not there: make kfp")
    command = [str(KFP.with_name("regraft")), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def server() -> Iterator[api.Api]:
    """A stand-in for the API of Kubeflow Pipelines."""
    with api.serving() as running:
        yield running
