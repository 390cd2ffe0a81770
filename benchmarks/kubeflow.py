"""What Kubeflow's way of starting a step costs beside the local one: seconds per step, for steps that do nothing.

    python -m benchmarks.kubeflow            best of 3 passages each; needs .venv-kfp (make kfp)

The steps are the stand-ins of tests/kubeflow, so a step's own time is that of starting Python and publishing one file.
kfp.local starts no containers: on a cluster, starting pods comes on top, some seconds per step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import _laptop, _machine
from regraft import pipeline
from regraft.runners import local
from tests.kubeflow import stub

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "dags/recipes/movie-sentiment.yaml"
PIPELINE = ROOT / "dags/compiled/movie-sentiment.kfp.yaml"
RUN = "2026-11-23T03-00"


def on_kfp_local(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of a passage through kfp.local, without importing kfp, with the exit handler."""
    command = [ROOT / ".venv-kfp/bin/python", ROOT / "tests/kubeflow/on_this_machine.py", PIPELINE]
    command += ["--python", sys.executable, "--root", folder / "kfp", "--set", f"store={folder / 'store'}"]
    done = subprocess.run(
        [*command, "--set", f"run={RUN}"], env=environment, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["succeeded"], done.stdout
    return float(result["seconds"])


class Silent:
    """A watcher of the local runner that says nothing."""

    def started(self, step: pipeline.Step) -> None: ...
    def progress(self, step: pipeline.Step, done: float, text: str) -> None: ...
    def retrying(self, step: pipeline.Step, seconds: float, why: str) -> None: ...
    def ended(self, ended: local.StepEnded) -> None: ...


def on_the_local_runner(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of a passage with the local runner."""
    begin = time.monotonic()
    with contextlib.chdir(folder):
        ended = local.run(
            RECIPE, store=str(folder / "store"), run=RUN, logs=folder, watcher=Silent(), environment=environment
        )
    assert [step.state for step in ended] == ["done"] * 5, ended
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    _machine.show()
    table = Table("way", "seconds per step", title=f"five steps that do nothing, best of {times}")
    for name, passage in (("local runner", on_the_local_runner), ("kfp.local", on_kfp_local)):
        seconds = []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as made:
                folder = stub.write(Path(made))
                environment = {**_laptop.environment(), "PYTHONPATH": made, "STUB_WORKED": str(folder / "worked")}
                seconds.append(passage(folder, environment))
        table.add_row(name, f"{min(seconds) / len(pipeline.STEPS):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
