"""The real components, a real MLflow server and a real Triton: the compiled pipeline runs to a served model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft import pipeline, stack
from regraft.runners import local
from regraft.store import Manifest, Store
from tests.kubeflow.conftest import KFP, ROOT, regraft

RUN = "2026-11-23T03-00"
STEPS = [step.name for step in pipeline.STEPS]
RECIPE = """\
name: tiny
task: text-classification
data:
  source: {folder}/data.jsonl
  columns: {{text: text, label: label}}
  labels: [negative, positive]
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {folder}/base}}
adapter: {{r: 4}}
training: {{epochs: 1, max_length: 16, evaluations: 1, precision: fp32}}
gates: {{min_rows: 10}}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""


class Silent:
    """A watcher of the local runner that says nothing."""

    def started(self, step: pipeline.Step) -> None: ...
    def progress(self, step: pipeline.Step, done: float, text: str) -> None: ...
    def retrying(self, step: pipeline.Step, seconds: float, why: str) -> None: ...
    def ended(self, ended: local.Ended) -> None: ...


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The laptop stack in a folder of its own; gives the variables that lead to it."""
    if not KFP.exists():
        pytest.skip("Kubeflow's environment is not there: make kfp")
    for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS", "REGRAFT_MODEL_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    home = tmp_path / "home"
    try:
        stack.up(home=home, say=print)
        yield stack.environment(home)
    finally:
        stack.down(home=home, say=print)


def manifests(store: Store) -> dict[str, tuple[str, str]]:
    """Identity and digest of each step's result."""

    def result(step: str) -> Manifest:
        found = store.manifest(f"{step}/{store.read_json(f'runs/{RUN}/{step}.json')['identity']}")
        assert found is not None
        return found

    return {step: (result(step).identity, result(step).digest) for step in STEPS}


@pytest.mark.slow
def test_the_pipeline_ends_with_a_served_model_and_the_local_runner_finds_it_done(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    from tests import champions

    champions.base(tmp_path / "base")
    chance, kinds = random.Random(0), (("negative", "bad dull"), ("positive", "good great"))
    rows = [
        {"text": " ".join([*chance.choices(champions.WORDS, k=8), words]), "label": label}
        for label, words in kinds * 200
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, compiled = tmp_path / "tiny.yaml", tmp_path / "tiny.kfp.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    assert regraft("compile", recipe, "--to", "kfp", "-o", compiled).returncode == 0

    command: list[Any] = [KFP, ROOT / "tests/kubeflow/on_this_machine.py", compiled, "--python", sys.executable]
    command += ["--root", tmp_path / "kfp", "--set", f"store={tmp_path / 'store'}", "--set", f"run={RUN}"]
    done = subprocess.run(command, env={**os.environ, **servers}, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["succeeded"], done.stdout + done.stderr
    assert [container["step"] for container in result["started"]] == [*STEPS, "record"]

    with urllib.request.urlopen(f"http://{servers['REGRAFT_TRITON_URLS']}/v2/models/tiny") as answer:
        assert json.load(answer)["versions"] == ["1"]
    (output,) = (tmp_path / "kfp/outputs").glob("*/evaluate/executor_output.json")
    matrix = json.loads(output.read_text())["artifacts"]["confusion"]["artifacts"][0]["metadata"]["confusionMatrix"]
    assert sum(sum(row["row"]) for row in matrix["rows"]) > 0
    assert "<html" in output.with_name("report").read_text()

    store = Store(str(tmp_path / "store"), "tiny")
    made = manifests(store)
    watcher = Silent()
    again = local.run(recipe, store=store.url, run=RUN, logs=tmp_path / "logs", watcher=watcher, environment=servers)
    assert [(ended.state, ended.cached) for ended in again] == [("done", True)] * 5
    assert manifests(store) == made

    fresh = Store(str(tmp_path / "fresh"), "tiny")
    local.run(recipe, store=fresh.url, run=RUN, logs=tmp_path / "logs", watcher=watcher, environment=servers)
    assert manifests(fresh) == made
