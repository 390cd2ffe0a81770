"""Runs the benchmarks one after another, or those that are named: `python -m benchmarks [NAME …]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ELSEWHERE = {"airflow": ".venv-airflow", "kubeflow": ".venv-kfp", "sft": ".cache/bench"}
"""Benchmarks that need another environment beside this one: left out where it is not there."""


def main() -> int:
    here = Path(__file__).parent
    known = sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))
    away = {name for name, needs in ELSEWHERE.items() if not (here.parent / needs).exists()}
    known = [name for name in known if name not in away]
    chosen = sys.argv[1:] or known
    failed = []
    if not sys.argv[1:] and away:
        print(f"left out, since their environments are not there: {', '.join(sorted(away))} (make test makes them)")
    for name in chosen:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
