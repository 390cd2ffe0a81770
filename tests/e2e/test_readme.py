"""Every command of README is one that exists, and the recipe in it is one that holds."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_the_commands_were_found() -> None:
    assert "make run" in COMMANDS
    assert "make test" in COMMANDS


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_the_target(command: str) -> None:
    done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if "regraft " in c])
def test_regraft_knows_the_command_and_its_arguments(command: str, tmp_path: Path) -> None:
    (tmp_path / "dags").symlink_to(ROOT / "dags")
    arguments = command.split()[1:]
    program = str(Path(sys.executable).with_name("regraft"))
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert "Usage:" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_the_recipe_holds() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert recipe.parse(text).name == "movie-sentiment"
