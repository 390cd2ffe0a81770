"""What the tests of one step share."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from components.validate import contract
from tests.contract.validating import Laptop


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("REGRAFT_SCRATCH", str(tmp_path))
    # Great Expectations is imported once for all tests; those of the step as a process start its own.
    monkeypatch.setattr(contract, "judge", lambda: nullcontext(contract.judged))
    made = Laptop(tmp_path)
    made.recipe()
    return made


# What it publishes
