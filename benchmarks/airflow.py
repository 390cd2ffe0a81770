"""What Airflow costs: parse time of dags/retrain.py, cold and warm, and seconds per step on a real scheduler.

    python -m benchmarks.airflow [--recipes 1 20 200] [--times 2]        needs .venv-airflow (make airflow)

The steps are the stand-ins of tests/airflow, so a step's own time is that of starting Python and publishing one file.
The best of so many runs counts, on Airflow and on the local runner.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import _laptop, _machine
from benchmarks.kubeflow import Silent
from regraft import pipeline
from regraft.runners import local
from tests.airflow.laptop import MINIMAL, ROOT, Laptop
from tests.airflow.server import Airflow

PARSE = """
import json, runpy, sys, time
seconds = []
for _ in range(3):
    begin = time.perf_counter()
    made = runpy.run_path(sys.argv[1])
    seconds.append(time.perf_counter() - begin)
print(json.dumps([seconds[0], min(seconds[1:])]))
"""


def parse(recipes: int) -> tuple[float, float]:
    """Seconds to load the DAG file of so many recipes: in a fresh process, and again in the same one."""
    with tempfile.TemporaryDirectory() as made:
        laptop = Laptop(Path(made) / "laptop")
        for number in range(recipes):
            laptop.recipe(f"recipe-{number:03}")
        environment = {**_laptop.environment(), **laptop.environment, "AIRFLOW_HOME": made}
        command = [ROOT / ".venv-airflow/bin/python", "-c", PARSE, str(ROOT / "dags/retrain.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        cold, warm = json.loads(done.stdout.splitlines()[-1])
        return cold, warm


def per_step(times: int) -> tuple[float, float]:
    """Seconds per step for steps that do nothing: on the local runner, and on a real scheduler from the start of a
    run's first task to the end of its last."""
    with tempfile.TemporaryDirectory() as made:
        laptop = Laptop(Path(made) / "laptop")
        laptop.recipe("noop", text=MINIMAL)
        airflow = Airflow(laptop.home, laptop.environment, laptop.folder / "stubs")
        here, there = [], []
        try:
            airflow.start()
            for number in range(times):
                run = airflow.trigger("noop", when=f"2026-11-{1 + number:02}T00:00:00Z")
                airflow.finished("noop", run)
                tasks = airflow.call("GET", f"/dags/noop/dagRuns/{run}/taskInstances")["task_instances"]
                starts = [datetime.fromisoformat(task["start_date"]) for task in tasks]
                ends = [datetime.fromisoformat(task["end_date"]) for task in tasks]
                there.append((max(ends) - min(starts)).total_seconds() / len(tasks))
        finally:
            airflow.stop()
        with contextlib.chdir(laptop.folder / "stubs"):  # `python -m` looks here first
            for number in range(times):
                begin = time.perf_counter()
                ended = local.run(
                    laptop.recipes / "noop.yaml",
                    store=f"{laptop.folder}/store-{number}",
                    run="2026-11-23T00-00",
                    logs=laptop.folder / "logs",
                    watcher=Silent(),
                    environment=laptop.environment,
                )
                assert [each.state for each in ended] == ["done"] * len(pipeline.STEPS)
                here.append((time.perf_counter() - begin) / len(ended))
        return min(here), min(there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, nargs="+", default=[1, 20, 200])
    parser.add_argument("--times", type=int, default=2, choices=range(1, 29), metavar="1..28")
    arguments = parser.parse_args()
    _machine.show()
    table = Table("recipes", "cold", "warm", title="seconds to parse dags/retrain.py")
    for recipes in arguments.recipes:
        cold, warm = parse(recipes)
        table.add_row(str(recipes), f"{cold:.2f}", f"{warm:.2f}")
    Console().print(table)
    here, there = per_step(arguments.times)
    table = Table("runner", "seconds", "times", title="a step that does nothing")
    table.add_row("local", f"{here:.2f}", "1.0")
    table.add_row("Airflow's scheduler, process", f"{there:.2f}", f"{there / here:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
