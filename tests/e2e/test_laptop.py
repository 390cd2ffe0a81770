"""The laptop, as a newcomer meets it: up, run, run again, look, roll back, forward, mend, down; all real, all small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regraft import stack
from tests.worlds import LATER, RUN, Tiny
from tests.worlds.text_classification import rows

pytestmark = pytest.mark.slow


def regraft(folder: Path, *arguments: str, may_end: tuple[int, ...] = (0,)) -> str:
    """Types a command of regraft in a folder; gives what it printed."""
    server = os.environ.get("REGRAFT_TRITONSERVER", str(stack.TRITONSERVER.absolute()))
    known = {k: v for k, v in os.environ.items() if not k.startswith(("REGRAFT_", "MLFLOW_"))}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("regraft")), *arguments],
        cwd=folder,
        env={**known, "REGRAFT_TRITONSERVER": server},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode in may_end, done.stdout + done.stderr
    return done.stdout


def test_from_nothing_to_a_served_model_and_back(tiny_base: Path, tmp_path: Path) -> None:
    if not stack.TRITONSERVER.exists() and "REGRAFT_TRITONSERVER" not in os.environ:
        pytest.skip("no Triton server is there: make triton")
    tiny = Tiny(tmp_path / "laptop", tiny_base)
    folder = tiny.folder

    def answer(*arguments: str, may_end: tuple[int, ...] = (0,)) -> Any:
        return json.loads(regraft(folder, *arguments, "--json", may_end=may_end))

    try:
        first = answer("up")
        assert answer("up") == first, "what runs is left alone"

        declared = tiny.recipe.read_text()
        tiny.recipe.write_text(declared.replace("latency_budget_ms: 5000", "latency_budget_ms: 0.001"))
        strict = answer("run", "tiny.yaml", "--run", RUN, may_end=(10,))
        assert strict["outcome"]["state"] == "not served"
        assert strict["outcome"]["sentence"].startswith("Promoted, not served: version 1 is too slow")
        assert (strict["champion"], strict["prediction"], strict["serving"]) == (None, None, [])
        answer("promote", "tiny", "--version", "1", may_end=(10,))
        assert answer("history", "tiny") == [], "what was never served was never champion"
        assert all(check["healthy"] for check in answer("doctor")["tiny"])
        tiny.recipe.write_text(declared)

        done = answer("run", "tiny.yaml", "--run", RUN)
        assert done["outcome"] == {"state": "served", "sentence": "Promoted and served: version 1"}
        assert [step["cached"] for step in done["steps"]] == [True] * 4 + [False], "only deploy reads what was mended"
        assert [step["state"] for step in done["steps"]] == ["done"] * 5
        assert done["verdict"]["verdict"] == "promote"
        assert (done["registered"], done["champion"]["version"]) == (1, 1)
        assert done["serving"][0] == {"version": 1, "state": "READY", "reason": None}
        assert done["prediction"]["label"] in ("negative", "positive")
        assert sum(done["prediction"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert Path(done["open"]["report"]).exists()
        assert f"/models/tiny/versions/{done['registered']}" in done["open"]["MLflow model"]

        again = answer("run", "tiny.yaml", "--run", RUN)
        assert [step["cached"] for step in again["steps"]] == [True] * 5
        assert [s["digest"] for s in again["steps"]] == [s["digest"] for s in done["steps"]]

        text = regraft(folder, "run", "tiny.yaml", "--run", RUN)
        for said in (
            "Promoted and served: version 1; all of it was there already",
            "version 1 READY",
            "live",
            "cached",
            "report",
            "MLflow",
            "Triton",
        ):
            assert said in text

        tiny.put(rows(900, seed=1))
        second = answer("run", "tiny.yaml", "--run", LATER, may_end=(0, 10))
        if second["champion"]["version"] == 2:
            rolled = answer("rollback", "tiny", "--reason", "to see it")
            assert rolled["entry"]["version"] == 1
            assert all(server["agrees"] for server in rolled["follow"].values())
            forward = answer("promote", "tiny", "--version", "2")
            assert all(server["agrees"] for server in forward["follow"].values())
            assert [entry["version"] for entry in answer("history", "tiny")] == [1, 2, 1, 2]
        assert all(check["healthy"] for check in answer("doctor")["tiny"])
        assert answer("status")[0]["recipe"] == "tiny"
    finally:
        regraft(folder, "down")
    servers = [stack.Server.model_validate(server) for server in first.values()]
    assert not any(server.alive for server in servers), "down stops what up started"
