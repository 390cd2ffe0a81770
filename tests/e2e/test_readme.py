"""README's commands are typed as they stand there, in its order, on the real example; its recipe holds."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from regraft import recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
OURSELVES = "make test"


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the checkout, without what this test run has in its environment."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("REGRAFT_", "MLFLOW_", "MAKE", "MFLAGS"))}
    return subprocess.run(command.split(), cwd=ROOT, env=known, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    if (ROOT / ".regraft/stack.json").exists():
        pytest.skip("the laptop stack runs in this checkout: regraft down")
    yield ROOT
    run(".venv/bin/regraft down")


def test_the_commands_were_found() -> None:
    assert COMMANDS[:2] == ["make run", OURSELVES]
    assert len(COMMANDS) > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_readme_does_what_it_says(checkout: Path) -> None:
    said = {}
    for command in COMMANDS:
        if command != OURSELVES:
            done = run(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            said[command] = done.stdout
    assert re.search(r"Triton +version \d+ READY", said["make run"])
    assert re.search(r"live .* →[\s│]+(positive|negative)", said["make run"], re.DOTALL)  # a long text wraps
    again = said[".venv/bin/regraft run dags/recipes/movie-sentiment.yaml"]
    assert again.count("cached") >= 5
    assert "Promote: " in said[".venv/bin/regraft history movie-sentiment"]


@pytest.mark.parametrize("target", re.findall(r"`make (\w+)`", README))
def test_make_knows_every_target_that_readme_names(target: str) -> None:
    assert run(f"make -n {target}").returncode == 0


def test_the_recipe_holds() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert recipe.parse(text).name == "movie-sentiment"
