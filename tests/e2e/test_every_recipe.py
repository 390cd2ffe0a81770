"""Each shipped recipe runs from its data to a champion on this machine; README's own does as README says.

Language models take ten minutes each, so that CI gives them a tiny base model and looks at the way to a verdict only;
`make test PYTEST='-m real'` trains the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft import recipe as recipes
from regraft import stack, tasks
from tests import llamas
from tests.e2e.test_readme import README, ROOT

DATA = ROOT / ".cache/data"
BASE = ROOT / ".cache/models/smollm2"
RECIPES = sorted((ROOT / "dags/recipes").glob("*.yaml"))
LANGUAGE = [path for path in RECIPES if "models/smollm2" in path.read_text()]
OTHERS = [path for path in RECIPES if path not in LANGUAGE and path.name not in README]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a recipe in a folder of its own; gives what `regraft run --json` says."""
    if not stack.TRITONSERVER.exists() and "REGRAFT_TRITONSERVER" not in os.environ:
        pytest.skip("no Triton server is there: make triton")
    server = os.environ.get("REGRAFT_TRITONSERVER", str(stack.TRITONSERVER.absolute()))
    known = {k: v for k, v in os.environ.items() if not k.startswith(("REGRAFT_", "MLFLOW_"))}
    known |= {"REGRAFT_TRITONSERVER": server, "REGRAFT_DATA": str(DATA)}

    def regraft(*arguments: str, codes: tuple[int, ...] = (0,), **environment: str) -> Any:
        command = [str(Path(sys.executable).with_name("regraft")), *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=known | environment, capture_output=True, text=True)
        assert done.returncode in codes, done.stdout + done.stderr
        return json.loads(done.stdout)

    try:
        regraft("up")
        yield lambda recipe, **more: regraft("run", str(recipe), **more)
    finally:
        subprocess.run([str(Path(sys.executable).with_name("regraft")), "down"], cwd=tmp_path, env=known, check=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", OTHERS, ids=lambda path: path.stem)
def test_a_shipped_recipe_ends_with_a_served_model(recipe: Path, run: Run) -> None:
    done = run(recipe)
    assert done["outcome"] == {"state": "served", "sentence": "Promoted and served: version 1"}
    assert done["prediction"]["short"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", LANGUAGE, ids=lambda path: path.stem)
def test_a_shipped_recipe_of_a_language_model_ends_with_a_verdict(recipe: Path, run: Run, tmp_path: Path) -> None:
    if not DATA.joinpath("headlines").exists():
        pytest.skip("the data of language models is not there: make language-data")
    done = run(recipe, codes=(0, 10), REGRAFT_BASE_MODEL=str(llamas.base(tmp_path / "base")))
    assert done["verdict"]["rows"]["clean"] >= 50
    ended = "served" if tasks.served(recipes.load(recipe).task) else "promoted"
    assert done["outcome"]["state"] in (ended, "held", "rejected")


@pytest.mark.real
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("recipe", LANGUAGE, ids=lambda path: path.stem)
def test_a_shipped_recipe_ends_with_a_language_model_that_is_better_than_its_base(recipe: Path, run: Run) -> None:
    done = run(recipe, REGRAFT_BASE_MODEL=str(BASE))
    if tasks.served(recipes.load(recipe).task):
        assert done["outcome"] == {"state": "served", "sentence": "Promoted and served: version 1"}
        assert done["prediction"]["short"]
    else:
        assert done["outcome"] == {"state": "promoted", "sentence": "Promoted: version 1"}
    (base,) = [gate for gate in done["verdict"]["gates"] if gate["name"] == "base"]
    assert base["passed"], base["sentence"]
