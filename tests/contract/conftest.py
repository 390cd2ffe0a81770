"""What the tests of one step share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.validating import Laptop


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("REGRAFT_SCRATCH", str(tmp_path))
    made = Laptop(tmp_path)
    made.recipe()
    return made


# What it publishes
