"""A whole small world for tests: a tiny random BERT, data it can learn, a recipe, a store, and steps as processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft import pipeline
from regraft.ledger import Entry, Ledger
from regraft.store import Manifest, Store
from tests import champions

RUN = "2026-11-23T03-00"
LATER = "2026-11-30T03-00"
GOOD, BAD = ("good", "great", "bright", "sharp"), ("bad", "awful", "dull", "slow")
RECIPE = """\
name: tiny
task: text-classification
data:
  source: {data}
  columns: {{text: text, label: label}}
  labels: [negative, positive]
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 4}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 1e-2, max_length: 16, evaluations: 4, precision: fp32}}
gates: {{min_rows: 20, floors: {{accuracy: 0.3}}}}
serving: {{latency_budget_ms: 5000}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, str]]:
    """Sentences with one telling word each; `wrong` is the share whose label is flipped."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        positive = chance.random() < 0.5
        words = chance.choices([w for w in champions.WORDS if w not in GOOD + BAD], k=chance.randint(4, 9))
        words.insert(chance.randrange(len(words)), chance.choice(GOOD if positive else BAD))
        label = positive != (chance.random() < wrong)
        made.append({"text": " ".join(words), "label": "positive" if label else "negative"})
    return made


def identities(store: Store, run: str = RUN) -> dict[str, tuple[str, str]]:
    """Identity and digest of each step's result in a run."""
    found = {}
    for step in pipeline.STEPS:
        identity = store.read_json(f"runs/{run}/{step.name}.json")["identity"]
        manifest = store.manifest(f"{step.name}/{identity}")
        assert manifest is not None
        found[step.name] = (manifest.identity, manifest.digest)
    return found


@dataclass
class Tiny:
    """One such world below a folder.

    `environment` is what steps get beside this process's own variables, such as the address of MLflow.
    """

    folder: Path
    base: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.recipe = self.folder / "tiny.yaml"
        self.data = self.folder / "data.jsonl"
        self.store = Store(str(self.folder / "store"), "tiny")
        self.put(rows(400))
        self.declare()

    def declare(self, more: str = "", *, epochs: float = 4) -> None:
        """Writes the recipe; `more` are further lines of it."""
        self.recipe.write_text(RECIPE.format(data=self.data, base=self.base, more=more, epochs=epochs))

    def put(self, made: list[dict[str, str]]) -> None:
        """Writes the data."""
        self.data.write_text("".join(json.dumps(row) + "\n" for row in made))

    def start(self, step: str, *, run: str = RUN, **environment: str) -> subprocess.Popen[str]:
        arguments = ["--recipe", str(self.recipe), "--store", self.store.url, "--run", run]
        variables = {"OMP_NUM_THREADS": "1", **self.environment, **environment}
        return subprocess.Popen(
            [sys.executable, "-m", f"components.{step}", *arguments],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def step(self, step: str, *, run: str = RUN, **environment: str) -> tuple[int, str]:
        """Exit code and output of one step."""
        process = self.start(step, run=run, **environment)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def through(self, *steps: str, run: str = RUN, **environment: str) -> None:
        """Runs steps that must all be done."""
        for step in steps:
            code, output = self.step(step, run=run, **environment)
            assert code == 0, f"{step} ended with {code}:\n{output}"

    def served(self, run: str = RUN) -> Entry:
        """Writes the entry of a first champion that promote has handed over, as deploy does once it serves."""
        promoted = self.result("promote", run)
        about = {"model": promoted.inputs["model"], "run": run, "evaluation": promoted.inputs["evaluation"]}
        version, reason = promoted.metrics["version"], promoted.metrics["reason"]
        return self.ledger.append(None, kind="promote", version=version, reason=reason, **about)

    def pointer(self, step: str, run: str = RUN) -> dict[str, Any]:
        return dict(self.store.read_json(f"runs/{run}/{step}.json"))

    def result(self, step: str, run: str = RUN) -> Manifest:
        manifest = self.store.manifest(f"{step}/{self.pointer(step, run)['identity']}")
        assert manifest is not None
        return manifest

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)
