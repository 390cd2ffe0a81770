"""A namespace of the cluster that KUBECONFIG names, with the chart in it, for tests, by kubectl and helm.

It knows a cluster, images and nothing else, so it is the same on kind, on a cloud, and on what `.ci/cluster` starts.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import urllib3

from regraft.parts import StepName
from tests.airflow.server import free_port, until
from tests.helm.chart import CHART, HELM
from tests.images.containers import REGISTRY, TAG, image

HERE = Path(__file__).parent
VALUES = """\
images: {pullPolicy: IfNotPresent}
store:
  existingSecret: regraft-store
  env:
    AWS_ENDPOINT_URL: http://s3:9000
    AWS_DEFAULT_REGION: us-east-1
    REGRAFT_DATA: s3://regraft/data
    REGRAFT_BASE_MODEL: s3://regraft/minilm
mlflow:
  backendStore: {existingSecret: mlflow-database}
  resources:
    requests: {cpu: 50m, memory: 256Mi}
    limits: {cpu: "1", memory: 1536Mi}
doctor: {schedule: "0 0 1 1 *"}  # the tests start it
triton:
  controlSecret: regraft-triton
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {cpu: "1", memory: 1Gi}
  repository: {storageClass: regraft-test, size: 1Gi}
"""
CLIENT = """\
import http.client, json, signal, sys, threading, time
answers, lost, versions, ending = 0, [], set(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())
body = json.dumps({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a fine film"]}]})

def ask():
    global answers
    while not ending.wait(0.02):
        try:  # a connection each, so that the Service chooses a replica each time
            connection = http.client.HTTPConnection("regraft-triton", 8000, timeout=30)
            connection.request("POST", f"/v2/models/{sys.argv[1]}/infer", body)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            assert answer.status == 200, content
            versions.add(content["model_version"])
            answers += 1
        except Exception as error:
            lost.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

threads = [threading.Thread(target=ask) for _ in range(2)]
[thread.start() for thread in threads]
while any(thread.is_alive() for thread in threads):
    print(json.dumps({"answers": answers, "lost": lost[:20], "versions": sorted(versions)}), flush=True)
    time.sleep(0.5)
print(json.dumps({"answers": answers, "lost": lost[:20], "versions": sorted(versions)}), flush=True)
"""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """The output of a command."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _answered(method: str, url: str) -> str:
    """What a server answers, read to its end: kubectl's forwarding hangs when somebody leaves before that."""
    answer = urllib3.request(method, url, headers={"Connection": "close"}, timeout=20, retries=False)
    return answer.data.decode()


def _answers(port: int) -> bool:
    try:
        _answered("GET", f"http://127.0.0.1:{port}/-/outage")
    except urllib3.exceptions.HTTPError:
        return False
    return True


class Namespace:
    """One namespace, and what tests do in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return run("kubectl", "-n", self.name, *arguments, stdin=stdin, check=check)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def helm(self, *arguments: str) -> str:
        return run(HELM, "-n", self.name, *arguments)

    def create(self) -> None:
        """The namespace with the servers that the chart expects to find."""
        run("kubectl", "create", "namespace", self.name)
        until(lambda: self.get("serviceaccount", "default"), "the namespace is ready")
        self.kubectl("apply", "-f", str(HERE / "servers.yaml"))
        for name in ("postgres", "s3"):
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=300s")
        self.kubectl("wait", "--for=condition=complete", "job/models", "--timeout=60s")

    def delete(self) -> None:
        """Removes all, and prints what was there, for whoever has to understand a failure."""
        print(self.kubectl("get", "pods,pvc,jobs", "-o", "wide", check=False))
        print(self.kubectl("logs", "deployment/s3", "--tail=20", check=False))
        print(self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:])
        run("kubectl", "delete", "namespace", self.name, "--timeout=180s", check=False)
        run("kubectl", "delete", "persistentvolume", "regraft-test-models", "--ignore-not-found", check=False)

    def install(self, values: Path, recipes: dict[str, Path]) -> None:
        given = [f"--set-file=recipes.{name}={path}" for name, path in recipes.items()]
        registry = [f"--set=images.registry={REGISTRY.rstrip('/')}", f"--set=images.tag={TAG}"]
        self.helm("install", "regraft", str(CHART), "-f", str(values), *given, *registry, "--wait", "--timeout=5m")

    def secret(self, name: str) -> dict[str, str]:
        """What a Secret holds."""
        data = self.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """host:port on loopback that leads to a pod of a Service that speaks HTTP.

        kubectl's forwarding ends with the pod that it leads to, and hangs for good when a client has left early: it is
        started again then.
        """
        local = free_port()
        command = ["kubectl", "-n", self.name, "port-forward", f"service/{service}", f"{local}:{port}"]
        over = threading.Event()

        def keep() -> None:
            while not over.wait(0.5):
                with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                    for second in count(1):
                        if process.poll() is not None or over.wait(1) or (second % 10 == 0 and not _answers(local)):
                            break
                    process.kill()

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            until(lambda: socket.create_connection(("127.0.0.1", local), 1), f"{service} is forwarded")
            yield f"127.0.0.1:{local}"
        finally:
            over.set()
            keeper.join()

    def pods(self, selector: str, *, phase: str = "") -> list[str]:
        found = self.get("pods", "-l", selector)["items"]
        return [pod["metadata"]["name"] for pod in found if not phase or pod["status"]["phase"] == phase]

    def job(self, name: str, cronjob: str) -> None:
        """Starts a CronJob now, as `kubectl create job --from` does where both know one version of its API."""
        spec = self.get("cronjob", cronjob)["spec"]["jobTemplate"]["spec"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(job))

    def working(self, step: StepName, says: str) -> str:
        """Waits until the pod of a step has said something; gives the pod."""

        def there() -> str:
            for pod in self.pods(f"regraft/step={step}", phase="Running"):
                if says in self.kubectl("logs", pod, "-c", "base", check=False):
                    return pod
            return ""

        return str(until(there, f"{step} says {says!r}", 1800, pause=2))

    def served(self, model: str) -> dict[str, list[int]]:
        """The versions that each Triton pod serves, by its name."""
        ask = (
            "import json, os, urllib.request as u; token = {'regraft-token': os.environ['REGRAFT_TRITON_TOKEN']}; "
            "r = u.Request('http://127.0.0.1:8000/v2/repository/index', b'{}', token); "
            f"print([int(m['version']) for m in json.load(u.urlopen(r)) if m['name'] == '{model}' "
            "and m.get('state') == 'READY'])"
        )
        return {pod: sorted(json.loads(self.kubectl("exec", pod, "--", "python3", "-c", ask))) for pod in self.triton()}

    def triton(self) -> list[str]:
        """The pods of Triton that are not on their way out."""
        found = self.get("pods", "-l", "app.kubernetes.io/component=triton")["items"]
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @contextmanager
    def traffic(self, model: str) -> Iterator[Callable[[], dict[str, Any]]]:
        """A pod that asks a model all the time through the Service; gives what it has counted up to now."""
        self.kubectl("delete", "pod", "traffic", "--ignore-not-found")
        limits = {"cpu": "500m", "memory": "128Mi"}
        container = {
            "name": "traffic",
            "image": image("triton"),
            "command": ["python3", "-c", CLIENT, model],
            "resources": {"limits": limits, "requests": {"cpu": "50m"}},
        }
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "traffic"}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

        def counted() -> dict[str, Any]:
            line = self.kubectl("logs", "traffic", "--tail=1")
            assert line, "the client has said nothing yet"
            return dict(json.loads(line))

        until(lambda: counted()["answers"], "the client has an answer")
        try:
            yield counted
        finally:
            self.kubectl("delete", "pod", "traffic", "--wait=false")

    def outage(self, address: str, seconds: float) -> None:
        """Makes the S3 server answer 503 for a while."""
        _answered("POST", f"http://{address}/-/outage?{seconds}")

    def refused(self, address: str) -> int:
        """How often it has answered 503."""
        return int(_answered("GET", f"http://{address}/-/outage"))
