"""What Airflow costs: parse time of dags/retrain.py, cold and warm, and seconds per step on a real scheduler.

    .venv-airflow/bin/python -m benchmarks.airflow        needs .venv-airflow and .venv (make airflow)

The steps are the stand-ins of tests/airflow, so a step's own time is that of starting Python and publishing one file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
        environment = {**os.environ, **laptop.environment, "AIRFLOW_HOME": made}
        command = [sys.executable, "-c", PARSE, str(ROOT / "dags/retrain.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        cold, warm = json.loads(done.stdout.splitlines()[-1])
        return cold, warm


def scheduler() -> float:
    """Seconds per step of a run whose steps do nothing, from the start of its first task to the end of its last."""
    with tempfile.TemporaryDirectory() as made:
        laptop = Laptop(Path(made) / "laptop")
        laptop.recipe("noop", text=MINIMAL)
        airflow = Airflow(laptop.home, laptop.environment, laptop.folder / "stubs")
        try:
            airflow.start()
            seconds = []
            for day in ("2026-11-23", "2026-11-24"):
                run = airflow.trigger("noop", when=f"{day}T00:00:00Z")
                airflow.finished("noop", run)
                tasks = airflow.call("GET", f"/dags/noop/dagRuns/{run}/taskInstances")["task_instances"]
                starts = [datetime.fromisoformat(task["start_date"]) for task in tasks]
                ends = [datetime.fromisoformat(task["end_date"]) for task in tasks]
                seconds.append((max(ends) - min(starts)).total_seconds() / len(tasks))
            return min(seconds)
        finally:
            airflow.stop()


def main() -> None:
    table = Table("recipes", "cold", "warm", title="seconds to parse dags/retrain.py")
    for recipes in (1, 20, 200):
        cold, warm = parse(recipes)
        table.add_row(str(recipes), f"{cold:.2f}", f"{warm:.2f}")
    Console().print(table)
    begin = time.monotonic()
    print(
        f"a step that does nothing, on a real scheduler: {scheduler():.2f} s ({time.monotonic() - begin:.0f} s in all)"
    )


if __name__ == "__main__":
    main()
