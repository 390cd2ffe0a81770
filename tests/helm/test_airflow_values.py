"""The values for Airflow's own chart: what they name is in our image, or made by the commands of docs/kubernetes.md.

Airflow's chart cannot be fetched here, so its templates are not rendered with them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import regraft
from tests.helm.chart import ROOT, variables

GUIDE = (ROOT / "docs/kubernetes.md").read_text()


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "helm/airflow-values.yaml").read_text())
    return found


def test_its_secrets_and_its_config_map_are_made_by_the_guides_commands(values: dict[str, Any]) -> None:
    made = dict(re.findall(r"kubectl -n airflow create secret generic (\S+) --from-literal=([\w-]+)=", GUIDE))
    keyed = [
        (values["data"]["metadataSecretName"], "connection"),
        (values["fernetKeySecretName"], "fernet-key"),
        (values["apiSecretKeySecretName"], "api-secret-key"),
        (values["jwtSecretName"], "jwt-secret"),
    ]
    assert all(made[name] == key for name, key in keyed)
    assert all(source["secretRef"]["name"] in made for source in yaml.safe_load(values["extraEnvFrom"]))
    (volume,), (mount,) = values["volumes"], values["volumeMounts"]
    assert f"create configmap {volume['configMap']['name']} --from-file=cluster.yaml" in GUIDE
    assert variables(values)["REGRAFT_CLUSTER"] == f"{mount['mountPath']}/cluster.yaml"


def test_its_image_is_the_one_that_is_built(values: dict[str, Any]) -> None:
    dockerfile = (ROOT / "docker/airflow.Dockerfile").read_text()
    assert values["defaultAirflowTag"] == regraft.__version__
    assert f'title="{values["defaultAirflowRepository"]}"' in dockerfile
    assert f"USER {values['uid']}:{values['gid']}\n" in dockerfile
    assert f"COPY dags {variables(values)['AIRFLOW__CORE__DAGS_FOLDER']}\n" in dockerfile
    pinned = re.search(r"^apache-airflow==(\S+)", (ROOT / "requirements/airflow-image.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert values["airflowVersion"] == pinned[1]


def test_old_logs_and_the_folders_that_they_leave_empty_are_cleared(values: dict[str, Any], tmp_path: Path) -> None:
    *shell, script = values["scheduler"]["logGroomerSidecar"]["args"]
    logs = tmp_path / "dag_id=one"
    logs.mkdir()
    for name, age in (("old.log", "40 days ago"), ("new.log", "1 day ago")):
        (logs / name).write_text("said")
        subprocess.run(["touch", "-d", age, logs / name], check=True)
    (tmp_path / "dag_id=gone").mkdir()
    subprocess.run(["touch", "-d", "3 days ago", tmp_path / "dag_id=gone"], check=True)
    once = script.replace("/opt/airflow/logs", str(tmp_path)).replace(
        "while sleep 3600 & wait $!; do", "for once in 1; do"
    )
    subprocess.run([*shell, once], env={"PATH": "/usr/bin:/bin", "AIRFLOW__LOG_RETENTION_DAYS": "30"}, check=True)
    assert [path.name for path in logs.iterdir()] == ["new.log"]
    assert not (tmp_path / "dag_id=gone").exists()
