"""The rules of DESIGN.md that a machine can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from regraft import pipeline

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "mlflow", "airflow", "kfp", "great_expectations", "numpy", "pandas", "tritonclient")


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["regraft", "regraft.step", "regraft.cli", "regraft.tasks"])
def test_the_control_plane_is_light_to_import(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("step", [step.name for step in pipeline.STEPS])
def test_a_step_imports_little_before_it_knows_that_it_has_work_to_do(step: str) -> None:
    """To start and import is all that a cached step takes time for; fsspec alone is a tenth of that."""
    heavy = (*HEAVY, "asyncio", "fsspec", "rich", "typer", "urllib3")
    code = f"import components.{step}.__main__, sys; from regraft.store import Store; Store('here', 'reviews'); "
    code += f"print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_file_holds_one_idea() -> None:
    folders = ("regraft", "components", "dags", "tests", "benchmarks", "examples")
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_nothing_pickled_is_ever_loaded() -> None:
    forbidden = ("pickle.load", "torch.load(", "joblib.load", "allow_pickle=True", "trust_remote_code=True")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for folder in ("regraft", "components", "dags", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for word in forbidden
        if word in path.read_text()
    ]
    assert found == []
