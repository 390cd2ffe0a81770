"""MLflow as the chart starts it: a real server, started by the rendered commands, is not for strangers."""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regraft import pages, security, servers, settings, stack, tracking
from regraft.errors import BadInput
from tests.helm.chart import HELM, ROOT, pods, rendered, variables

pytestmark = [
    pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm"),
    pytest.mark.skipif(not importlib.util.find_spec("flask_wtf"), reason="MLflow's extra `auth` is not there"),
]
SECRET = "shop-regraft-mlflow"


class Server:
    """A pod of the chart's MLflow as processes; /tmp, which a pod has of its own, is a folder."""

    def __init__(self, folder: Path) -> None:
        documents = rendered("minimal")
        self.spec = pods(documents)["Deployment/shop-regraft-mlflow"]["spec"]
        (made,) = [each["data"] for each in documents if (each["kind"], each["metadata"]["name"]) == ("Secret", SECRET)]
        self.login = {key: base64.b64decode(value).decode() for key, value in made.items()}
        self.folder, self.port = folder, stack.free_port(0)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, container: dict[str, Any], command: list[str]) -> subprocess.Popen[bytes]:
        secrets = {SECRET: self.login, "mlflow-database": {"uri": f"sqlite:///{self.folder}/100%25/mlflow.db"}}
        image = re.findall(r"(MLFLOW_\w+)=(\w+)", (ROOT / "docker/mlflow.Dockerfile").read_text())
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **dict(image)}
        for name, value in variables(container).items():
            secret = isinstance(value, tuple)
            environment[name] = secrets[value[0]][value[1]] if secret else value.replace("/tmp", str(self.folder))
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)

    def makes_users(self) -> None:
        (users,) = self.spec["initContainers"]
        assert users["command"][0] == "python"
        assert self.start(users, [sys.executable, *users["command"][1:]]).wait(120) == 0, self.said()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.makes_users()
        (mlflow,) = self.spec["containers"]
        own = {"host": "127.0.0.1", "port": str(self.port), "workers": "1"}
        own |= {"artifacts-destination": str(self.folder / "artifacts")}
        options = dict(each.removeprefix("--").split("=", 1) for each in mlflow["args"] if "=" in each)
        flags = [each for each in mlflow["args"] if "=" not in each]
        arguments = [*flags, *(f"--{name}={value}" for name, value in {**options, **own}.items())]
        process = self.start(mlflow, [sys.executable, "-m", "mlflow", "server", *arguments])
        try:
            for _ in range(300):
                assert process.poll() is None, self.said()
                if servers.ready("mlflow", self.url):
                    break
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(60)

    def said(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def status(self, path: str, *, user: str = "admin", password: str | None = None) -> int:
        """What it answers to a request, by a stranger where no password is given."""
        login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password or ""}
        request = urllib.request.Request(f"{self.url}/{path}", headers=settings.mlflow_login(login))
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


PATHS = (
    "",
    "version",
    "api/2.0/mlflow/experiments/search?max_results=1",
    "api/2.0/mlflow/registered-models/search",
    "api/2.0/mlflow-artifacts/artifacts",
    "ajax-api/2.0/mlflow/experiments/search?max_results=1",
)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "100%").mkdir()  # what stands in a URI, and in a file of settings, in its own way
    return Server(tmp_path)


@pytest.mark.slow
def test_a_stranger_is_refused_and_the_made_password_is_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    made = server.login["MLFLOW_TRACKING_PASSWORD"]
    with server.running():
        for path in PATHS:
            assert [server.status(path, password=word) for word in (None, "password1234", made)] == [401, 401, 200], (
                path
            )
        assert server.status("health") == 200, "a probe has no password"
        with pytest.raises(BadInput, match="refuses the credentials"):
            tracking.connect()
        assert {door.says for door in security.doors() if server.url in door.name and not door.open} >= {
            "asks for a password"
        }
        assert not [door for door in security.doors() if server.url in door.name and door.open]

        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, server.login[name])
        client = tracking.connect()
        run = tracking.run_of(client, "reviews", "an-identity", "2026-11-24T03-00")
        client.log_text(run, "written", "note.txt")
        page = pages.run_page(client.get_experiment_by_name("reviews").experiment_id, run)
        assert servers.training_run(server.url, "reviews", "an-identity") == f"{server.url}/{page}"
        assert any("is version" in door.says for door in security.doors() if server.url in door.name)


@pytest.mark.slow
def test_the_secrets_password_holds_also_where_there_was_another(server: Server) -> None:
    """As after a release was uninstalled and installed again: the chart makes a password, the database has one."""
    before = server.login["MLFLOW_TRACKING_PASSWORD"]
    server.makes_users()
    server.login["MLFLOW_TRACKING_PASSWORD"] = "another-of-sixteen"
    with server.running():
        assert server.status("version", password=before) == 401
        assert server.status("version", password="another-of-sixteen") == 200


def test_it_is_only_switched_off_by_a_word() -> None:
    (mlflow,) = pods(rendered("minimal"))["Deployment/shop-regraft-mlflow"]["spec"]["containers"]
    assert "--app-name=basic-auth" in mlflow["args"]
    off = rendered("minimal", "--set=mlflow.auth.enabled=false")
    (mlflow,) = pods(off)["Deployment/shop-regraft-mlflow"]["spec"]["containers"]
    assert "--app-name=basic-auth" not in mlflow["args"]
    assert not [name for name in variables(mlflow) if "AUTH" in name]
    assert not [each for each in off if (each["kind"], each["metadata"]["name"]) == ("Secret", SECRET)]
    assert "MLFLOW_TRACKING_PASSWORD" not in str(off)


def test_the_images_packages_have_what_it_takes() -> None:
    locked = (ROOT / "requirements/mlflow.txt").read_text()
    assert "\nflask-wtf==" in locked
