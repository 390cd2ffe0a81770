"""What `regraft compile --to kfp` writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft import pipeline
from regraft import recipe as recipes
from regraft.errors import BadInput
from regraft.runners import cluster
from tests.kubeflow.conftest import COMPILED, ROOT, regraft
from tests.unit.test_recipe import MINIMAL

SHIPPED = ROOT / "dags/recipes/movie-sentiment.yaml"
STEPS = [step.name for step in pipeline.STEPS]


def compiled(file: Path, *more: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's specification, and its Kubernetes settings by step."""
    out = file.with_suffix(".kfp.yaml")
    done = regraft("compile", file, "--to", "kfp", "-o", out, *more)
    assert done.returncode == 0, done.stderr
    specification, platform = yaml.safe_load_all(out.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return specification, {name.removeprefix("exec-"): settings for name, settings in executors.items()}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.yaml"
    file.write_text(
        MINIMAL + "description: |\n  two\n  components:\nresources: {finetune: {cpu: 1.5, memory: 6Gi, gpu: 2}}\n"
    )
    return file


def test_the_committed_pipeline_of_the_shipped_recipe_is_fresh(tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    done = regraft("compile", SHIPPED, "--to", "kfp", "--cluster", ROOT / "dags/cluster.yaml", "-o", again)
    assert done.returncode == 0, done.stderr
    assert again.read_text() == COMPILED.read_text(), "compile it again, as above"


def test_the_pipeline_carries_its_recipe() -> None:
    specification = next(yaml.safe_load_all(COMPILED.read_text()))
    carried = specification["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert recipes.parse(yaml.safe_dump(carried)) == recipes.load(SHIPPED)


def test_null_in_a_recipe_is_carried(tmp_path: Path) -> None:
    """kfp's compiler takes none in a parameter."""
    file = tmp_path / "reviews.yaml"
    file.write_text(MINIMAL + "training: {early_stopping: null}\nschedule: null\n")
    specification, _ = compiled(file)
    carried = specification["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert recipes.parse(yaml.safe_dump(carried)) == recipes.load(file)
    assert recipes.load(file).training.early_stopping is None


def test_a_file_that_cannot_be_written_is_one_clear_error(recipe: Path, tmp_path: Path) -> None:
    done = regraft("compile", recipe, "-o", tmp_path)
    assert done.returncode == 20
    assert "cannot be written: Is a directory" in done.stderr


def test_every_step_is_its_image_with_one_command_and_kubeflows_cache_is_off() -> None:
    text = COMPILED.read_text()
    specification = next(yaml.safe_load_all(text))
    containers = {
        k.removeprefix("exec-"): v["container"] for k, v in specification["deploymentSpec"]["executors"].items()
    }
    assert sorted(containers) == sorted([*STEPS, "record"])
    for name in STEPS:
        assert containers[name]["image"].startswith(f"regraft-{name}:")
        assert containers[name]["command"] == ["python", "-m", "regraft.runners.kubeflow_pod", name]
    assert text.count("cachingOptions: {}") == len(containers)
    assert "enableCache" not in text


def test_resources_and_gpus_are_the_recipes(recipe: Path) -> None:
    specification, settings = compiled(recipe)
    resources = specification["deploymentSpec"]["executors"]["exec-finetune"]["container"]["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("1500m", "6Gi")
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "2"
    assert settings["finetune"]["activeDeadlineSeconds"] == str(24 * 3600)


def test_an_image_whose_digest_is_known_is_that_one_whatever_its_tag(recipe: Path, tmp_path: Path) -> None:
    digest, file = f"sha256:{'5' * 64}", tmp_path / "cluster.yaml"
    file.write_text(f"image: registry.example/{{step}}:1\ndigests: {{validate: '{digest}'}}\n")
    specification, _ = compiled(recipe, "--cluster", file)
    executors = specification["deploymentSpec"]["executors"]
    assert executors["exec-validate"]["container"]["image"] == f"registry.example/validate:1@{digest}"
    assert executors["exec-finetune"]["container"]["image"] == "registry.example/finetune:1"


def test_the_cluster_says_where_pods_run_and_secrets_go_by_reference(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("""
image: registry.example/{step}:{version}
store: /store/runs
volumes: {regraft-store: /store}
pull_secrets: [registry]
secrets: {s3: [AWS_SECRET_ACCESS_KEY]}
config_maps: {endpoints: [MLFLOW_TRACKING_URI]}
run_as_user: 1000
steps:
  finetune:
    node_selector: {gpu: a100}
    tolerations: [{key: gpu, operator: Exists}]
    volumes: {scratch: /scratch}
    scratch: 9Gi
""")
    specification, settings = compiled(recipe, "--cluster", file)
    assert specification["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"] == "/store/runs"
    for name in STEPS:
        assert settings[name]["secretAsEnv"][0]["secretName"] == "s3"
        assert settings[name]["configMapAsEnv"][0]["configMapName"] == "endpoints"
        assert settings[name]["imagePullSecret"][0]["secretName"] == "registry"
        context = {"runAsNonRoot": True, "runAsUser": "1000", "runAsGroup": "1000"}
        assert settings[name]["securityContext"] == context
        limits = {mount["mountPath"]: mount["sizeLimit"] for mount in settings[name]["emptyDirMounts"]}
        assert limits == ({"/tmp": "9Gi", "/dev/shm": "6Gi"} if name == "finetune" else {"/tmp": "50Gi"})
        mounted = [mount["mountPath"] for mount in settings[name]["pvcMount"]]
        assert mounted == (["/store", "/scratch"] if name == "finetune" else ["/store"])
    assert settings["finetune"]["nodeSelector"]["labels"] == {"gpu": "a100"}
    assert settings["finetune"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "nodeSelector" not in settings["evaluate"]


def test_without_a_cluster_each_run_must_say_where_the_store_is(recipe: Path) -> None:
    specification, _ = compiled(recipe)
    assert specification["root"]["inputDefinitions"]["parameters"]["store"] == {"parameterType": "STRING"}


def test_a_wrong_cluster_file_names_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("image: a\nsteps:\n  finetuned: {}\nvolumes: {a: relative}\n")
    with pytest.raises(BadInput) as caught:
        cluster.load(file)
    assert "line 3: steps.finetuned" in str(caught.value)
    assert "line 4: volumes.a" in str(caught.value)


def test_without_kfp_the_error_says_how_to_get_it(recipe: Path, tmp_path: Path) -> None:
    code = "import sys; from regraft.runners import cluster, kubeflow; "
    code += "kubeflow.compile_recipe(*sys.argv[1:], cluster=cluster.load(None))"
    done = subprocess.run([sys.executable, "-c", code, recipe, tmp_path / "x"], capture_output=True, text=True)
    assert "Kubeflow's client is not in this environment" in done.stderr
    assert "make kfp" in done.stderr
