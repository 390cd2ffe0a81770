"""Every recipe that is accepted becomes a DAG, which Airflow stores and reads again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from regraft import recipe
from tests.airflow.conftest import load
from tests.airflow.laptop import ROOT, STEPS_PYTHON, Laptop
from tests.airflow.test_dags import CLUSTER, KUBECONFIG


@pytest.mark.parametrize("steps", ["processes", "pods"])
def test_every_accepted_recipe_becomes_a_dag(laptop: Laptop, monkeypatch: pytest.MonkeyPatch, steps: str) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    from regraft.runners import airflow_form

    monkeypatch.setenv("REGRAFT_PROTOCOLS", "s3,gs,hdfs,https,file")
    subprocess.run([STEPS_PYTHON, "-m", "tests.recipes", str(laptop.recipes)], cwd=ROOT, check=True)
    files = sorted(Path(laptop.recipes).iterdir())
    if steps == "pods":
        files = files[::6]
        for file in set(laptop.recipes.iterdir()) - set(files):
            file.unlink()
        (laptop.folder / "cluster.yaml").write_text(CLUSTER)
        (laptop.folder / "kubeconfig").write_text(KUBECONFIG)
        monkeypatch.setenv("KUBECONFIG", str(laptop.folder / "kubeconfig"))
        monkeypatch.setenv("REGRAFT_CLUSTER", str(laptop.folder / "cluster.yaml"))
    assert len(files) >= 10
    load("broken_recipes.py")
    made = load("retrain.py")
    for file in files:
        stored = json.dumps(DagSerialization.to_dict(made[file.stem]))
        again = DagSerialization.from_dict(json.loads(stored))
        assert again.task_ids == made[file.stem].task_ids
        assert len(again.timetable.description) < 1000, "Airflow's column of it has no more"
        text = file.read_text(encoding="utf-8")
        assert recipe.parse(airflow_form.recipe_for(text, {})).name == file.stem
