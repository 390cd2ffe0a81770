"""These tests run in Airflow's environment: .venv-airflow/bin/pytest --confcutdir tests/airflow tests/airflow."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.laptop import ROOT, Laptop

if importlib.util.find_spec("airflow") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # Airflow reads these when it is first imported.
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="regraft-airflow-")
    os.environ |= {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080",
    }


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    laptop = Laptop(tmp_path)
    for name, value in laptop.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "stubs")  # `python -m` looks here first
    return laptop


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's own tables, on SQLite."""
    from airflow.utils.db import initdb

    initdb()


def load(file: str) -> dict[str, Any]:
    """The names that a DAG file defines."""
    path = ROOT / "dags" / file
    spec = importlib.util.spec_from_file_location(f"dags_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return vars(module)
