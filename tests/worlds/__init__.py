"""A small world a task for tests: a tiny random BERT, data it can learn, a recipe, a store, and steps as processes.

A world is a module that has `base(folder)`, which makes the base model; `RECIPE`, the text of a recipe with places for
{data}, {base}, {epochs} and {more}; `EPOCHS`, in which the tiny model surely learns from 400 rows; `rows(count, seed=,
wrong=)`, rows of data of which a share is labelled wrongly; `near(row)`, one that nearly equals another;
`damaged(rows)`, the same with what the contract has to refuse; and `REFUSED`, a word of why. Its model is served in
fp32: whether random weights hold their parity in bf16 is chance, and deploy's digest with it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from regraft import pipeline
from regraft.ledger import Entry, Ledger, of_promoted
from regraft.manifest import Manifest
from regraft.store import Store
from tests import preloaded

RUN = "2026-11-23T03-00"
LATER = "2026-11-30T03-00"
TASKS = sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("test_"))
"""The tasks that have a world: all."""


def of(task: str) -> ModuleType:
    """The world of a task."""
    return importlib.import_module(f"tests.worlds.{task.replace('-', '_')}")


def identities(store: Store, run: str = RUN) -> dict[str, tuple[str, str]]:
    """Identity and digest of each step's result in a run that has ended."""
    found = {}
    for step in pipeline.STEPS:
        if not store.exists(f"runs/{run}/{step.name}.json"):
            continue
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
    task: str = "text-classification"

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.recipe = self.folder / "tiny.yaml"
        self.data = self.folder / "data.jsonl"
        self.store = Store(str(self.folder / "store"), "tiny")
        self.put(of(self.task).rows(400))
        self.declare()

    def declare(self, more: str = "", *, epochs: float | None = None) -> None:
        """Writes the recipe; `more` are further lines of it."""
        world = of(self.task)
        words = {"data": self.data, "base": self.base, "more": more, "epochs": epochs or world.EPOCHS}
        self.recipe.write_text(world.RECIPE.format(**words))

    def put(self, made: list[dict[str, Any]]) -> None:
        """Writes the data."""
        self.data.write_text("".join(json.dumps(row) + "\n" for row in made))

    def _arguments(self, run: str) -> list[str]:
        return ["--recipe", str(self.recipe), "--store", self.store.url, "--run", run]

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **more}

    def start(self, step: str, *, run: str = RUN, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"components.{step}", *self._arguments(run)],
            env=self._variables(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def step(self, step: str, *, run: str = RUN, **environment: str) -> tuple[int, str]:
        """Exit code and output of one step."""
        arguments, variables = self._arguments(run), self._variables(environment)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".said-") as said:
            code = preloaded.run(f"components.{step}", arguments, variables, Path(said.name))
            if code is not None:
                return code, Path(said.name).read_text(errors="replace")
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
        version, reason = promoted.metrics["version"], promoted.metrics["reason"]
        about = of_promoted(promoted.inputs, run)
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
