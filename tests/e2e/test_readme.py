"""README's commands are typed as they stand there, in its order, on the real example; its recipe holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.deploy import replica, serve
from regraft import recipe
from regraft.processor import computes_in_bf16

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


LESSER = {
    "without bf16": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "without AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""Switches that make libraries compute as on a lesser processor."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "threads"), [("without bf16", 2), ("without AVX", 1)])
def test_the_examples_later_steps_serve_it_on_a_lesser_processor(
    kind: str, threads: int, tmp_path: Path, mlflow_server: str
) -> None:
    if kind == "without bf16" and not computes_in_bf16():
        pytest.skip("this processor has none: README's commands have shown it")
    runs = ROOT / ".regraft/store/movie-sentiment/runs"
    if not runs.exists():
        pytest.skip("README's commands have not been run: the test before this one does")
    for done in ("runs", "validate", "finetune"):
        shutil.copytree(runs.parent / done, tmp_path / "store/movie-sentiment" / done)
    later = ("evaluate", "promote", "deploy")
    declared = yaml.safe_load((ROOT / "dags/recipes/movie-sentiment.yaml").read_text())
    declared["resources"] |= {step: {"cpu": threads, "memory": "4Gi"} for step in later}
    declared["serving"] |= {"threads": threads, "latency_budget_ms": 5000}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(declared))
    (tmp_path / "models").mkdir()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in LESSER[kind].items():
            environment.setenv(name, value)
        with serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server:
            environment.setenv("MLFLOW_TRACKING_URI", mlflow_server)
            environment.setenv("REGRAFT_TRITON_URLS", server.address)
            environment.setenv("REGRAFT_MODEL_REPOSITORY", str(tmp_path / "models"))
            for step in later:
                command = [sys.executable, "-m", f"components.{step}", "--recipe", str(tmp_path / "recipe.yaml")]
                command += ["--store", str(tmp_path / "store"), "--run", min(path.name for path in runs.iterdir())]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            assert "not served in bf16" in done.stderr or not computes_in_bf16()
            assert replica.ready(server.address, "movie-sentiment") == {1}


@pytest.mark.parametrize("target", re.findall(r"`make ([\w-]+)`", README))
def test_make_knows_every_target_that_readme_names(target: str) -> None:
    assert run(f"make -n {target}").returncode == 0


def test_the_recipe_holds() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert recipe.parse(text).name == "movie-sentiment"
