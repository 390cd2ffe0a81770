"""The chart, rendered for several clusters: valid for a current Kubernetes and for 1.20, and safe everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/regraft"
RECIPE = ROOT / "dags/recipes/movie-sentiment.yaml"
HELM = os.environ.get("HELM") or shutil.which("helm") or str(ROOT / ".cache/helm/helm")
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
MODERN = ("--kube-version=1.35.0",)
OLD = ("--kube-version=1.20.2",)

pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True)


def rendered(case: str, *options: str) -> list[dict[str, Any]]:
    values = str(CHART / "ci" / f"{case}-values.yaml")
    recipe = f"recipes.movie-sentiment={RECIPE}"
    done = helm("template", "shop", str(CHART), "-n", "ml", "-f", values, "--set-file", recipe, *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specifications by kind and name of what makes them."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        for path in (("template",), ("jobTemplate", "spec", "template")):
            inner = spec
            for key in path:
                inner = inner.get(key, {})
            if "spec" in inner:
                found[f"{document['kind']}/{document['metadata']['name']}"] = inner["spec"]
        if document["kind"] == "Pod":
            found[f"Pod/{document['metadata']['name']}"] = spec
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_chart_is_clean_under_lint(case: str) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{case}-values.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_what_it_renders_is_valid_for_a_current_kubernetes(case: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered(case, *MODERN)))
    command = [Path(sys.executable).with_name("kubernetes-validate"), "--strict", "-k", "1.35", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cluster", [MODERN, OLD], ids=["current", "1.20"])
def test_every_pod_is_restricted(case: str, cluster: tuple[str, ...]) -> None:
    found = pods(rendered(case, *cluster))
    assert found
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is ("doctor" in name), name  # it asks which replicas there are
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert not container["image"].endswith(":latest"), name
            assert ":" in container["image"], name


def test_old_clusters_get_the_versions_that_they_know() -> None:
    kinds = {document["kind"]: document["apiVersion"] for document in rendered("ha", *OLD)}
    assert kinds["CronJob"] == "batch/v1beta1"
    assert kinds["PodDisruptionBudget"] == "policy/v1beta1"
    assert kinds["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"


def test_gpus_are_limits_of_triton() -> None:
    triton = pods(rendered("gpu"))["StatefulSet/shop-regraft-triton"]
    limits = triton["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    assert limits["memory"]


def test_no_secret_is_in_what_it_renders() -> None:
    documents = rendered("air-gapped")
    assert not [document for document in documents if document["kind"] == "Secret"]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("mlflow.wrong=1", "Additional property wrong is not allowed"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("triton.replicas=0", "replicas"),
    ],
)
def test_values_that_are_wrong_are_named(setting: str, complaint: str) -> None:
    done = helm("template", "shop", str(CHART), "-f", str(CHART / "ci/minimal-values.yaml"), "--set", setting)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_database_that_is_not_named_is_asked_for() -> None:
    done = helm("template", "shop", str(CHART))
    assert done.returncode != 0
    assert "mlflow.backendStore.existingSecret is needed" in done.stderr
