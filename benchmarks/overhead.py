"""What regraft adds: seconds of a step that is cached, and of a run in which all five are.

    python -m benchmarks.overhead --run 2026-11-24T03-00

Needs the laptop stack and a finished run of the example (`make run`); repeats it, so that every step is a cache hit.
Beside it, what the interpreter alone costs: `python -c pass`, as often as a run starts processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from regraft import pipeline


def seconds(command: list[str]) -> tuple[float, str]:
    """Wall-clock time of a command that must succeed, or be refused by a gate, and its output."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 10):
        raise SystemExit(done.stderr)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="dags/recipes/movie-sentiment.yaml")
    parser.add_argument("--run", help="a finished run (default: the one that is due)")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    command = [str(Path(sys.executable).with_name("regraft")), "run", arguments.recipe, "--json"]
    command += ["--run", arguments.run] if arguments.run else []
    seconds(command)  # finishes the run where it was not, and warms the disk's cache
    whole, bare = [], []
    steps: dict[str, list[float]] = {step.name: [] for step in pipeline.STEPS}
    for _ in range(arguments.repeat):
        took, output = seconds(command)
        whole.append(took)
        for step in json.loads(output)["steps"]:
            if step["state"] in ("done", "refused"):
                if not step["cached"]:
                    raise SystemExit(f"step {step['step']} was not cached")
                steps[step["step"]].append(step["seconds"])
        bare.append(sum(seconds([sys.executable, "-c", "pass"])[0] for _ in range(6)))
    table = Table("", "median s", "best s", box=None, padding=(0, 3, 0, 0))
    rows = {f"{name}, in its process": values for name, values in steps.items() if values}
    rows |= {"a fully cached run, as typed": whole, "six bare interpreters": bare}
    for name, values in rows.items():
        table.add_row(name, f"{statistics.median(values):.3f}", f"{min(values):.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
