"""A step that reads foreign data has no secret that it does not need: what breaks in there finds nothing to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft import pipeline
from regraft.cli.champions import _ask_followers
from regraft.runners import cluster
from regraft.store import Store
from tests.kubeflow.conftest import ROOT
from tests.kubeflow.test_compile import compiled
from tests.unit.test_local_runner import STEP, Folder
from tests.unit.test_recipe import MINIMAL

SETTINGS = """
environment: {MLFLOW_TRACKING_URI: "http://mlflow:5000", REGRAFT_WEBHOOK: "https://hooks.example.com/of-ours"}
config_maps:
  endpoints: [REGRAFT_TRITON_URLS, MLFLOW_TRACKING_USERNAME]
secrets:
  regraft-store: [AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD]
  regraft-triton: [REGRAFT_TRITON_TOKEN]
  judge: [REGRAFT_JUDGE_KEY]
  notices: [REGRAFT_WEBHOOK, KFP_TOKEN]
steps:
  validate: {secrets: {warehouse: [WAREHOUSE_PASSWORD]}}
  finetune: {secrets: {mlflow-of-finetune: [MLFLOW_TRACKING_PASSWORD]}}
  promote: {secrets: {regraft-triton: [REGRAFT_TRITON_TOKEN], regraft-store: [SIGNING_KEY]}}
"""
ALL = {"MLFLOW_TRACKING_URI": "", "REGRAFT_TRITON_URLS": "endpoints", "AWS_SECRET_ACCESS_KEY": "regraft-store"}
MLFLOW = {"MLFLOW_TRACKING_USERNAME": "endpoints", "MLFLOW_TRACKING_PASSWORD": "regraft-store"}
TRITON = {"REGRAFT_TRITON_TOKEN": "regraft-triton"}
JUDGE = {"REGRAFT_JUDGE_KEY": "judge"}
GETS = {
    "validate": {**ALL, "WAREHOUSE_PASSWORD": "warehouse"},
    "finetune": {**ALL, **MLFLOW, "MLFLOW_TRACKING_PASSWORD": "mlflow-of-finetune"},
    "evaluate": {**ALL, **MLFLOW, **JUDGE},
    "promote": {**ALL, **MLFLOW, **TRITON, **JUDGE, "SIGNING_KEY": "regraft-store"},
    "deploy": {**ALL, **MLFLOW, **TRITON},
    "record": ALL,
}
"""Variables, and the ConfigMap or Secret that each is of. promote has Triton's token by the word of who wrote the file;
the webhook and Kubeflow's token nobody, since Airflow's own processes send notices and `regraft submit` submits."""


LOGIN = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
SECRET = {*LOGIN, "REGRAFT_TRITON_TOKEN", "REGRAFT_JUDGE_KEY", "REGRAFT_WEBHOOK", "KFP_TOKEN"}
PROCESSES = {
    "validate": set(),
    "finetune": LOGIN,
    "evaluate": LOGIN | {"REGRAFT_JUDGE_KEY"},
    "promote": LOGIN | {"REGRAFT_JUDGE_KEY"},
    "deploy": LOGIN | {"REGRAFT_TRITON_TOKEN"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text(SETTINGS)
    return tmp_path / "cluster.yaml"


def test_pods_get_the_secrets_of_the_servers_that_they_talk_to(settings: Path) -> None:
    read = cluster.load(settings)
    for step in pipeline.STEPS:
        place = read.placement(step.name)
        found = [*((key, "") for key in place.environment)]
        for named in (place.config_maps, place.secrets):
            assert all(named.values()), "none is named of which nothing is read: a pod waits for one that is missing"
            found += [(key, name) for name, keys in named.items() for key in keys]
        assert sorted(found) == sorted(GETS[step.name].items()), step.name


def test_kubeflows_pods_get_them_too(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "reviews.yaml").write_text(MINIMAL)
    document, pods = compiled(tmp_path / "reviews.yaml", "--cluster", settings)
    executors = document["deploymentSpec"]["executors"]
    for name, pod in pods.items():
        found = [(each["name"], "") for each in executors[f"exec-{name}"]["container"].get("env", [])]
        for kind, field in (("configMapAsEnv", "configMapName"), ("secretAsEnv", "secretName")):
            found += [(key["envVar"], each[field]) for each in pod.get(kind, []) for key in each["keyToEnv"]]
        assert sorted(found) == sorted(GETS[name].items()), name
    assert pods.keys() == GETS.keys()


def test_the_shipped_settings_keep_tritons_token_to_deploy() -> None:
    read = cluster.load(ROOT / "dags/cluster.yaml")
    assert [s.name for s in pipeline.STEPS if "regraft-triton" in read.placement(s.name).secrets] == ["deploy"]


def test_processes_get_them_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write = "import os\nopen(os.path.join(os.environ['MARKS'], '{}.has'), 'w').write(' '.join(os.environ))\n"
    for step in pipeline.STEPS:
        main = folder.path / "components" / step.name / "__main__.py"
        main.write_text(write.format(step.name) + STEP.format(name=step.name))
    folder.run(**dict.fromkeys((*SECRET, "AWS_SECRET_ACCESS_KEY"), "only-for-tests"))
    for step in pipeline.STEPS:
        has = set((folder.path / f"{step.name}.has").read_text().split())
        assert has & SECRET == PROCESSES[step.name], step.name
        assert "AWS_SECRET_ACCESS_KEY" in has


def test_the_doctor_gives_followers_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), "reviews")
    store.replace("recipe.yaml", MINIMAL.encode())
    for step in pipeline.followers("text-classification").values():
        follow = tmp_path / "components" / step.name / "follow.py"
        follow.parent.mkdir(parents=True)
        for folder in follow.parents[:2]:
            (folder / "__init__.py").touch()
        follow.write_text(f"import os\nopen('{step.name}.has', 'w').write(' '.join(os.environ))\n")
    monkeypatch.chdir(tmp_path)  # `python -m` looks here first
    for name in SECRET:
        monkeypatch.setenv(name, "only-for-tests")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:9")
    _ask_followers(store, "recipe.yaml", repair=False)
    for step in pipeline.followers("text-classification").values():
        assert set((tmp_path / f"{step.name}.has").read_text().split()) & SECRET == PROCESSES[step.name]


def test_a_step_declares_the_server_that_it_makes_follow() -> None:
    assert all(step.server is None or step.server in step.asks for step in pipeline.STEPS)
