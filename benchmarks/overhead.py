"""What regraft adds: seconds of a run in which all five steps are cached, as typed, and of each step in it.

    python -m benchmarks.overhead [--recipe FILE] [--repeat 5]

Runs the recipe once in a folder of its own, with servers of its own (some minutes for the example), then again and
again. Beside it, what the interpreter alone costs: `python -c pass`, as often as a run starts processes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import _laptop, _machine
from regraft import pipeline


def timed(act: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds and CPU seconds of what runs in child processes, and what it gives."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    given = act()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, given


def interpreters() -> None:
    for _ in range(len(pipeline.STEPS) + 1):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def measure(laptop: _laptop.Laptop, repeat: int) -> dict[str, list[tuple[float, ...]]]:
    """Seconds, and CPU seconds where they are known, by what took them."""
    laptop.run()
    found: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(repeat):
        *whole, facts = timed(laptop.run)
        for step in facts["steps"]:
            if not step["cached"]:
                raise SystemExit(f"step {step['step']} was not cached: {step['state']} {step['reason'] or ''}")
            found.setdefault(f"{step['step']}, in its process", []).append((step["seconds"],))
        found.setdefault("a fully cached run, as typed", []).append(tuple(whole))
        *bare, _ = timed(interpreters)
        found.setdefault("six bare interpreters", []).append(tuple(bare))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=_laptop.EXAMPLE)
    parser.add_argument("--store", type=Path, help="folder of a store to begin with a copy of, so that less is to do")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    _machine.show()
    with (
        tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder,
        _laptop.up(Path(folder) / "laptop", arguments.recipe, store=arguments.store) as laptop,
    ):
        found = measure(laptop, arguments.repeat)
    table = Table("", "median s", "best s", "CPU s", box=None, padding=(0, 3, 0, 0))
    for name, values in found.items():
        seconds, cpu = [value[0] for value in values], [value[1] for value in values if len(value) > 1]
        spent = f"{statistics.median(cpu):.3f}" if cpu else ""
        table.add_row(name, f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f}", spent)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
