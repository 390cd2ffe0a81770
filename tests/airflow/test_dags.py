"""What a DAG looks like: its schedule, its tasks, its pods, and what it costs to parse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.airflow.conftest import load
from tests.airflow.laptop import ROOT, WEEKLY, Laptop

CLUSTER = """\
image: registry.example.com/ml/regraft-{step}:1
pull_secrets: [pull]
environment: {MLFLOW_TRACKING_URI: "http://mlflow:5000"}
config_maps: {regraft-endpoints: [REGRAFT_TRITON_URLS]}
secrets: {bucket: [AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD], triton: [REGRAFT_TRITON_TOKEN]}
service_account: regraft-pipeline
run_as_user: 10001
node_selector: {pool: ml}
retries: 5
steps:
  finetune:
    node_selector: {gpu: h100}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    runtime_class: nvidia
  deploy: {volumes: {models: /models}}
"""

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
current-context: none
"""


def parse(laptop: Laptop, code: str, **environment: str) -> Any:
    """Loads dags/retrain.py in a fresh process and gives what `code` finds out, as JSON."""
    program = f"""
import importlib.util, json, sys, time
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("retrain", {str(ROOT / "dags/retrain.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dags = {{name: value for name, value in vars(module).items() if type(value).__name__ == "DAG"}}
print(json.dumps({code}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_airflows_rules_hold_for_the_dag_files() -> None:
    ruff = Path(sys.executable).parents[2] / ".venv/bin/ruff"
    command = [
        ruff,
        "check",
        "--preview",
        "--select",
        "AIR",
        "dags",
        *Path(ROOT / "regraft/runners").glob("airflow*.py"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_dag_has_the_recipes_schedule_and_one_run_at_a_time(laptop: Laptop) -> None:
    laptop.recipe("weekly")
    dag = load("retrain.py")["weekly"]
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert "Europe/Berlin" in str(dag.timetable.timezone)
    assert {"regraft", "text-classification"} <= set(dag.tags)
    assert dag.task_ids == ["validate", "finetune", "evaluate", "promote", "deploy"]
    for task in dag.tasks:
        assert task.execution_timeout.total_seconds() >= 3600
        assert task.retry_exponential_backoff
        assert "python -m components." in task.doc_md


def test_what_a_recipe_says_is_text_on_the_dags_page(laptop: Laptop) -> None:
    laptop.recipe("says", 'description: "<img src=x> ![p](http://evil.example)\\n\\n- two"\n')
    laptop.recipe("odd", text=WEEKLY.replace("source: data.csv", "source: 'a`b|c'", 1))
    made = load("retrain.py")
    assert "&lt;img src=x&gt; !\\[p\\](http\\://evil.example)\n\n\\- two\n" in made["says"].doc_md
    assert "| Data | a\\`b\\|c |" in made["odd"].doc_md


def test_a_dag_survives_serialisation(laptop: Laptop) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    laptop.recipe("plain")
    laptop.recipe("asks", "promotion: approval\n")
    laptop.recipe("lands", text=WEEKLY[: WEEKLY.index("schedule:")] + "schedule: {asset: s3://bucket/x, watch: true}\n")
    made = load("retrain.py")
    for name in ("plain", "asks", "lands"):
        data = json.loads(json.dumps(DagSerialization.to_dict(made[name])))
        again = DagSerialization.from_dict(data)
        assert again.task_ids == made[name].task_ids
        second = json.loads(json.dumps(DagSerialization.to_dict(load("retrain.py")[name])))
        assert second == data, "parsed twice it is the same: otherwise Airflow makes a version each time"
    links = DagSerialization.from_dict(DagSerialization.to_dict(made["plain"])).get_task("deploy").operator_extra_links
    assert [link.name for link in links] == ["Triton model"]


def test_as_processes_nothing_heavy_is_imported(laptop: Laptop) -> None:
    laptop.recipe("light")
    laptop.recipe("asks", "promotion: approval\n")
    names = '[name for name in ("torch", "mlflow", "kubernetes", "numpy", "pandas") if name in sys.modules]'
    assert parse(laptop, names) == []


def test_a_starting_task_parses_only_its_own_recipe(laptop: Laptop) -> None:
    for name in ("one", "two"):
        laptop.recipe(name)
    code = "sorted(dags)"
    assert parse(laptop, code) == ["one", "two"]
    program = (
        "from airflow.sdk.definitions.context import *; from airflow.sdk import get_parsing_context\n"
        "from pathlib import Path; from regraft.runners import airflow; import sys\n"
        "print(sorted(airflow.dags(Path('nowhere'))))"
    )
    environment = {**os.environ, "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "two"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['two']"


def test_two_hundred_recipes_parse_in_linear_time(laptop: Laptop) -> None:
    """Measured in this process, warm; the bound is ten times what it takes, and a tenth of Airflow's time-out."""
    seconds = {}
    for count in (50, 200):
        for number in range(count):
            laptop.recipe(f"recipe-{number:03}")
        load("retrain.py")
        began = time.process_time()
        assert len([name for name in load("retrain.py") if name.startswith("recipe-")]) == count
        seconds[count] = time.process_time() - began
    assert seconds[200] < 8 * seconds[50]
    assert seconds[200] < 15


def test_an_approval_asks_once_and_again_only_when_it_is_cleared(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.standard.operators import hitl
    from airflow.sdk.exceptions import TaskDeferred

    class State(dict[str, Any]):
        """Airflow's state of a task, which outlives its tries."""

        set = dict.__setitem__

    laptop.recipe("asks", "promotion: approval\n")
    task = load("retrain.py")["asks"].get_task("approve")
    task.notifiers, asked, state = [], [], State()
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **question: asked.append(question))

    def execute(max_tries: int) -> Any:
        with pytest.raises(TaskDeferred) as waits:
            task.execute({"task_instance": SimpleNamespace(id="1", max_tries=max_tries), "task_state_store": state})
        assert waits.value.method_name == "execute_complete"
        return waits.value.trigger

    first, repeated = execute(9), execute(9)
    assert len(asked) == 1, "asking again deletes the answer"
    for trigger in (first, repeated):
        assert (type(trigger).__name__, trigger.defaults) == ("HITLTrigger", ["Reject"])
        assert trigger.timeout_datetime - datetime.now(UTC) > timedelta(days=2), "then it is rejected"
    execute(10)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        ({"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "ana"}}, "ana"),
        ({"chosen_options": ["Approve"], "responded_by_user": None}, "somebody whom Airflow does not name"),
        ({"chosen_options": ["Reject"], "responded_by_user": {"id": "7", "name": "ana"}}, ""),
        (None, ""),
    ],
    ids=["approved", "approved by nobody known", "rejected", "only marked as success"],
)
def test_only_an_answer_of_yes_is_an_approval(answer: dict[str, Any] | None, who: str) -> None:
    from regraft.runners import airflow_approval

    assert airflow_approval.approved_by(SimpleNamespace(xcom_pull=lambda task_ids: answer)) == who


def test_only_promote_is_told_who_approved_and_only_where_the_recipe_asks(laptop: Laptop) -> None:
    laptop.recipe("asks", "promotion: approval\n")
    laptop.recipe("plain")
    made = load("retrain.py")
    told = [
        (name, task.task_id)
        for name in ("asks", "plain")
        for task in made[name].tasks
        if "REGRAFT_APPROVED_BY" in getattr(task, "environment", {})
    ]
    assert told == [("asks", "promote")]


def pods(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (laptop.folder / "cluster.yaml").write_text(CLUSTER)
    (laptop.folder / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(laptop.folder / "kubeconfig"))
    monkeypatch.setenv("REGRAFT_CLUSTER", str(laptop.folder / "cluster.yaml"))
    laptop.recipe("pods", "resources: {finetune: {cpu: 4, memory: 16Gi, gpu: 2}}\n")
    dag = load("retrain.py")["pods"]
    return {task.task_id: task for task in dag.tasks}


def test_a_pod_is_fully_specified(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    task = pods(laptop, monkeypatch)["finetune"]
    assert (task.pool, task.pool_slots) == ("regraft_gpu", 2)
    assert (task.durable, task.skip_on_exit_code, task.retries) == (True, [10], 5)
    spec = task.build_pod_request_obj().to_dict()["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "registry.example.com/ml/regraft-finetune:1"
    assert container["command"] == ["python", "-m", "components.finetune"]
    assert container["termination_message_policy"] == "FallbackToLogsOnError", "the step's last words reach Airflow"
    assert container["args"][:2] == ["--recipe", "/recipe/recipe.yaml"]
    assert container["resources"]["limits"] == {"cpu": "4000m", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert spec["node_selector"] == {"pool": "ml", "gpu": "h100"}
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["nvidia.com/gpu"]
    assert spec["runtime_class_name"] == "nvidia"
    assert spec["service_account_name"] == "regraft-pipeline"
    assert spec["automount_service_account_token"] is False
    assert spec["security_context"]["run_as_non_root"] is True
    assert spec["security_context"]["run_as_user"] == 10001
    limits = {each["name"]: each["empty_dir"]["size_limit"] for each in spec["volumes"] if each["empty_dir"]}
    assert limits == {"recipe": "16Mi", "scratch": "50Gi", "shm": "16Gi"}
    assert spec["restart_policy"] == "Never"
    assert spec["termination_grace_period_seconds"] == 120
    for each in (container, *spec["init_containers"]):
        assert each["security_context"]["capabilities"]["drop"] == ["ALL"]
        assert each["security_context"]["read_only_root_filesystem"] is True
    secret = next(e for e in container["env"] if e["name"] == "AWS_SECRET_ACCESS_KEY")
    assert secret["value_from"]["secret_key_ref"]["name"] == "bucket"
    assert secret["value"] is None


def test_pods_get_the_secrets_of_the_servers_that_they_talk_to(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name, task in pods(laptop, monkeypatch).items():
        (container,) = task.build_pod_request_obj().to_dict()["spec"]["containers"]
        found[name] = [e["name"] for e in container["env"] if (e["value_from"] or {}).get("secret_key_ref")]
    bucket, login, token = "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "REGRAFT_TRITON_TOKEN"
    assert found == {
        "validate": [bucket],
        "finetune": [bucket, login],
        "evaluate": [bucket, login],
        "promote": [bucket, login],
        "deploy": [bucket, login, token],
    }


@pytest.mark.parametrize(
    ("step", "gets"),
    [
        ("validate", ""),
        ("finetune", "MLFLOW_TRACKING_PASSWORD"),
        ("deploy.follow", "MLFLOW_TRACKING_PASSWORD REGRAFT_TRITON_TOKEN"),
    ],
)
def test_processes_get_neither_airflows_secrets_nor_those_of_other_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, gets: str
) -> None:
    from regraft.runners.airflow_step import StepProcess

    has = tmp_path / "has"
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os\nopen({str(has)!r}, 'w').write(' '.join(os.environ))\n")
    python.chmod(0o755)
    secrets = {"MLFLOW_TRACKING_PASSWORD", "REGRAFT_TRITON_TOKEN", "REGRAFT_WEBHOOK", "AIRFLOW__CORE__FERNET_KEY"}
    for name in secrets:
        monkeypatch.setenv(name, "only-for-tests")
    StepProcess(
        task_id="step", module=f"components.{step}", recipe="", arguments=[], environment={}, python=str(python)
    ).execute({})
    assert set(has.read_text().split()) & secrets == set(gets.split())


def test_a_pods_exit_code_decides_what_airflow_does(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
    from kubernetes.client import models as k8s

    task = pods(laptop, monkeypatch)["validate"]
    expected = {10: AirflowSkipException, 20: AirflowFailException, 1: AirflowFailException, 75: AirflowException,
                137: AirflowException}  # fmt: skip
    for code, kind in expected.items():
        pod = ended_pod(k8s.V1ContainerStateTerminated(exit_code=code, message="validate: the last words\n"))
        with pytest.raises(kind, match="the last words") as caught:
            cleaned_up(task, pod, monkeypatch)
        assert type(caught.value) is kind, code


def ended_pod(ended: Any = None, **status: Any) -> Any:
    """A failed pod as the Kubernetes API describes it."""
    from kubernetes.client import models as k8s

    state = k8s.V1ContainerState(terminated=ended)
    one = k8s.V1ContainerStatus(name="base", state=state, image="i", image_id="i", ready=False, restart_count=0)
    limits = k8s.V1ResourceRequirements(limits={"memory": "16Gi", "nvidia.com/gpu": "2"})
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="pod"),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", resources=limits)]),
        status=k8s.V1PodStatus(**{"phase": "Failed", "container_statuses": [one] if ended else [], **status}),
    )


class Api:
    """The part of KPO that talks to Kubernetes."""

    def __init__(self, pod: Any) -> None:
        self.pod, self.deleted = pod, False

    def read_pod(self, pod: Any) -> Any:
        if self.pod is None:
            from kubernetes.client.exceptions import ApiException

            raise ApiException(status=404)
        return self.pod

    def delete_pod(self, pod: Any) -> None:
        self.deleted = True


def cleaned_up(task: Any, pod: Any, monkeypatch: pytest.MonkeyPatch) -> Api:
    """Lets the operator clean up after a pod of which it saw the start only."""
    talks = ("process_pod_deletion", "patch_already_checked", "_read_pod_events", "_read_pod_container_states")
    for method in (*talks, "is_istio_enabled"):
        monkeypatch.setattr(type(task), method, lambda *arguments, **named: None)
    api = Api(pod)
    monkeypatch.setattr(type(task), "pod_manager", api)
    task.cleanup(pod, ended_pod(phase="Running"))
    return api


def test_a_pod_that_used_too_much_memory_says_which_limit_to_raise(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException
    from kubernetes.client import models as k8s

    task = pods(laptop, monkeypatch)["finetune"]
    killed = ended_pod(k8s.V1ContainerStateTerminated(exit_code=137, reason="OOMKilled"))
    with pytest.raises(AirflowFailException, match=r"memory 16Gi.*\n.*raise resources\.finetune\.memory"):
        cleaned_up(task, killed, monkeypatch)


def test_a_pod_that_no_node_takes_says_why_and_does_not_linger(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowException
    from kubernetes.client import models as k8s

    task = pods(laptop, monkeypatch)["finetune"]
    assert task.schedule_timeout_seconds == 15 * 60
    why = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = k8s.V1PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message=why)
    api = Api(ended_pod(phase="Pending", conditions=[condition]))
    monkeypatch.setattr(type(task), "pod_manager", api)
    with pytest.raises(AirflowException, match=r"Insufficient nvidia.com/gpu.*\n.*nvidia.com/gpu 2.*\n.*next"):
        task.cleanup(api.pod, api.pod)
    assert api.deleted


def test_a_pod_that_was_deleted_is_started_again(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowException

    with pytest.raises(AirflowException, match="deleted before it ended") as caught:
        cleaned_up(pods(laptop, monkeypatch)["finetune"], None, monkeypatch)
    assert type(caught.value) is AirflowException


def test_pods_survive_serialisation_too(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = pods(laptop, monkeypatch)["validate"].dag
    assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids == dag.task_ids
