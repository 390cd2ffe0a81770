"""Every recipe that is accepted becomes a Kubeflow pipeline, which carries it unchanged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from regraft import recipe
from tests import recipes
from tests.kubeflow.conftest import KFP, ROOT

COMPILE = """
import sys
from pathlib import Path
from regraft import recipe
from regraft.runners import cluster, kubeflow
settings = cluster.load("dags/cluster.yaml")
for file in sorted(Path(sys.argv[1]).glob("*.yaml")):
    try:
        declared = kubeflow.compile_recipe(file, Path(sys.argv[2]) / file.name, cluster=settings)
        if declared.schedule and declared.schedule.cron:
            zone = settings.model_copy(update={"timezone": declared.schedule.timezone})
            kubeflow.cron(declared.schedule, cluster=zone)
    except Exception as error:
        sys.exit(f"{file}: {type(error).__name__}: {error}")
"""


def test_every_accepted_recipe_compiles(tmp_path: Path) -> None:
    if not KFP.exists():
        pytest.skip("Kubeflow's environment is not there: make kfp")
    recipes.main(tmp_path / "recipes")
    command = [str(KFP), "-c", COMPILE, str(tmp_path / "recipes"), str(tmp_path / "compiled")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = sorted((tmp_path / "compiled").iterdir())
    assert len(compiled) == recipes.COUNT
    for file in compiled:
        specification = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        carried = specification["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
        assert recipe.parse(recipes.written(carried)) == recipe.load(tmp_path / "recipes" / file.name)
