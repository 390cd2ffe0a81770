"""Shows that commits which move code change no output: validation.json, adapters and verdict.json, to the byte.

    python -m tests.equal_outputs 0483eda..HEAD        every commit of a range that touches regraft/ or components/
    python -m tests.equal_outputs A B C                these commits

Each commit is checked out beside this folder's environment and runs one small world through validate, finetune and
evaluate, twice: a first model, then another one against it as champion, with slices and an anchor set. Of verdict.json
the identities are left out, since a commit that moves code may change them. Takes about a minute a commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests import champions
from tests.conftest import mlflow_running
from tests.worlds.text_classification import rows

ROOT = Path(__file__).parents[1]
FIRST, SECOND = "2026-11-23T03-00", "2026-11-30T03-00"
RECIPE = """\
name: tiny
task: text-classification
data:
  source: data/*.jsonl
  columns: {text: text, label: label, slices: [channel]}
  labels: [negative, positive]
  splits: {dev: 0.1, holdout: 0.3}
  contract: {near_duplicates: {max: 1}, duplicates: {max: 1}}
base_model: {source: base}
adapter: {r: 4}
training: {epochs: 4, batch_size: 16, learning_rate: 5e-3, max_length: 16, evaluations: 4, precision: fp32}
gates:
  min_rows: 20
  floors: {accuracy: 0.3}
  slices: {margin: 0.5, min_rows: 10}
  max_calibration_error: 0.9
  forgetting: {anchor: anchor.jsonl, max_drop: 0.5}
resources: {validate: {cpu: 1}, finetune: {cpu: 1}, evaluate: {cpu: 1}}
"""


def world(folder: Path) -> None:
    """The recipe, the base model, an anchor set and the data of two weeks."""
    folder.mkdir()
    champions.base(folder / "base")
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "data").mkdir()
    chance = random.Random(1)
    for name, count, seed in (("data/first.jsonl", 400, 0), ("second.jsonl", 500, 1), ("anchor.jsonl", 60, 2)):
        made = [{**row, "channel": chance.choice(["web", "app"])} for row in rows(count, seed=seed, wrong=0.05)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in made))


def outputs(code: Path, folder: Path, mlflow: str) -> dict[str, str]:
    """Digest of each output that counts, as the code in a folder makes it."""
    environment = {**os.environ, "PYTHONPATH": str(code), "MLFLOW_TRACKING_URI": mlflow, "OMP_NUM_THREADS": "1"}
    environment |= {"REGRAFT_SCRATCH": str(folder)}
    found: dict[str, str] = {}
    for run in (FIRST, SECOND):
        for step in ("validate", "finetune", "evaluate"):
            command = [sys.executable, "-m", f"components.{step}", "--recipe", "tiny.yaml", "--store", "store"]
            done = subprocess.run([*command, "--run", run], cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode not in (0, 10):
                raise SystemExit(f"{step} ended with {done.returncode} in {code}:\n{done.stderr}")
            identity = json.loads((folder / f"store/tiny/runs/{run}/{step}.json").read_text())["identity"]
            (result,) = (folder / f"store/tiny/{step}/{identity}").glob("attempt-*")
            for file in sorted(file for file in result.rglob("*") if file.is_file()):
                name = file.relative_to(result).as_posix()
                if name in ("validation.json", "verdict.json") or name.startswith("adapter/"):
                    content = (
                        re.sub(rb"[0-9a-f]{64}", b"", file.read_bytes()) if step != "finetune" else file.read_bytes()
                    )
                    found[f"{run[:10]} {name}"] = hashlib.sha256(content).hexdigest()[:12]
            if (run, step) == (FIRST, "finetune"):
                champion(folder, model=identity)
        (folder / "second.jsonl").replace(folder / "data/first.jsonl") if run == FIRST else None
    return found


def champion(folder: Path, *, model: str) -> None:
    """Makes the first model champion."""
    entry = {"sequence": 1, "kind": "promote", "version": 1, "model": model, "run": FIRST, "evaluation": "e" * 64}
    entry |= {"reason": "test", "who": "test", "at": datetime(2026, 11, 23, 4, tzinfo=UTC).isoformat()}
    ledger = folder / "store/tiny/ledger"
    ledger.mkdir()
    (ledger / "00000001.json").write_text(json.dumps(entry))


def commits(words: list[str]) -> list[str]:
    """The commits that words name, the oldest first."""
    if len(words) == 1 and ".." in words[0]:
        first = words[0].split("..")[0]
        command = ["git", "rev-list", "--reverse", words[0], "--", "regraft", "components"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        words = [first, *listed]
    command = ["git", "log", "--no-walk=unsorted", "--format=%h", *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", help="a range, or single commits")
    before: dict[str, str] = {}
    equal = True
    with tempfile.TemporaryDirectory() as name, mlflow_running(Path(name)) as mlflow:
        world(Path(name) / "world")
        for commit in commits(parser.parse_args().commits):
            code = Path(name) / commit
            subprocess.run(["git", "worktree", "add", "-q", "--detach", code, commit], cwd=ROOT, check=True)
            try:
                copy = Path(name) / f"world-{commit}"
                subprocess.run(["cp", "-r", Path(name) / "world", copy], check=True)
                now = outputs(code, copy, mlflow)
            finally:
                subprocess.run(["git", "worktree", "remove", "--force", code], cwd=ROOT, check=True)
            changed = sorted(key for key in {*before, *now} if before and before.get(key) != now.get(key))
            equal = equal and not changed
            print(commit, f"changes {', '.join(changed)}" if changed else f"{len(now)} outputs, all equal", flush=True)
            before = now
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
