"""What the tests of one step share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import components.promote as step_promote
from components.validate import contract
from regraft import pipeline, step
from regraft.errors import Exit
from tests.contract.promoting import Promote
from tests.contract.validating import Laptop
from tests.worlds import RUN, Tiny


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("REGRAFT_SCRATCH", str(tmp_path))
    # Great Expectations is imported once for all tests; those of the step as a process start its own.
    monkeypatch.setattr(contract, "judge", lambda: nullcontext(contract.judged))
    made = Laptop(tmp_path)
    made.recipe()
    return made


@pytest.fixture
def promote(tiny: Tiny, client: Any) -> Iterator[Promote]:
    """Runs the step in this process, which spares the imports, and gives its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(run: str = RUN) -> Exit:
        functions = step_promote.inputs, step_promote.work, step_promote.verify
        return step._run(pipeline.step("promote"), tiny.recipe, tiny.store.url, run, *functions)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
