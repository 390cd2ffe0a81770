"""A laptop stack of a benchmark's own: a folder with a recipe, a store, a model repository, MLflow and Triton.

Nothing is read from or written to the user's own .regraft, and servers that the environment names are not used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.deploy import serve
from regraft import recipe as recipes
from regraft import stack
from regraft.parts import Recipe
from regraft.store import Store

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "dags/recipes/movie-sentiment.yaml"
RUN = "2026-11-23T03-00"
KEPT = ("REGRAFT_DATA", "REGRAFT_BASE_MODEL")
"""Variables of ours that name what a recipe reads; all others name stores and servers."""


def environment() -> dict[str, str]:
    """This process's variables, but none that names a store or a server; and where data and code of this tree are."""
    variables = {n: v for n, v in os.environ.items() if n in KEPT or not n.startswith(("REGRAFT_", "MLFLOW_"))}
    return {
        "REGRAFT_DATA": str(ROOT / ".cache/data"),
        **variables,
        "PYTHONPATH": str(ROOT),
    }


@dataclass(frozen=True)
class Laptop:
    """One recipe below one folder."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def recipe(self) -> Recipe:
        return recipes.load(self.recipe_file)

    @property
    def store(self) -> Store:
        return Store(str(self.folder / ".regraft/store"), self.recipe.name)

    @property
    def stack(self) -> stack.Stack:
        return stack.read(self.folder / ".regraft")

    def regraft(self, *words: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Standard output of a command, as typed in the folder. Ends the benchmark where it does not end well."""
        command = [str(Path(sys.executable).with_name("regraft")), *words]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode not in allowed:
            raise SystemExit(f"regraft {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def run(self) -> dict[str, Any]:
        """Runs the recipe; what is there already is not done again. The summary as data."""
        facts: dict[str, Any] = json.loads(self.regraft("run", "recipe.yaml", "--run", RUN, "--json"))
        return facts


@contextmanager
def up(
    folder: Path, recipe: Path, *, store: Path | None = None, changes: Mapping[str, Any] | None = None
) -> Iterator[Laptop]:
    """A laptop with its servers up, which end with the block.

    Args:
        folder: made if it is not there.
        recipe: file of the recipe; what it reads must not depend on the working directory.
        store: folder of a store to begin with a copy of.
        changes: fields of the recipe's parts to set, such as {"serving": {"precision": "fp32"}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load(recipe.read_text())
    for part, fields in (changes or {}).items():
        document[part] = {**document.get(part, {}), **fields}
    triton = serve.home(os.environ.get("REGRAFT_TRITONSERVER") or ROOT / ".cache/tritonserver")
    laptop = Laptop(folder, {**environment(), "REGRAFT_TRITONSERVER": str(triton)})
    laptop.recipe_file.write_text(yaml.safe_dump(document, sort_keys=False))
    if store is not None:
        shutil.copytree(store, folder / ".regraft/store")
    try:
        laptop.regraft("up")
        yield laptop
    finally:
        laptop.regraft("down")


def trained(laptop: Laptop, to: Path) -> Path:
    """A copy of a laptop's store as it was before promote: with its challenger, without a champion."""
    shutil.copytree(laptop.folder / ".regraft/store", to)
    name = laptop.recipe.name
    for later in ("approvals", "ledger", "promote", "deploy", "golden"):
        shutil.rmtree(to / name / later, ignore_errors=True)
    for later in ("promote", "deploy"):
        (to / name / "runs" / RUN / f"{later}.json").unlink(missing_ok=True)
    return to
