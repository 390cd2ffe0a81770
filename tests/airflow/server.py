"""A real Airflow on loopback: api-server, scheduler, dag-processor and triggerer, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from examples import airflow


def until(holds: Callable[[], Any], what: str, seconds: float = 120, *, pause: float = 0.3) -> Any:
    """Waits until something holds, and gives what it gave; asks again after a pause of so many seconds."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := holds():
                return found
        except (OSError, AssertionError) as error:
            last = str(error)
        time.sleep(pause)
    raise AssertionError(f"after {seconds} s not yet: {what}; {last}")


class Airflow:
    """Starts it, talks to its REST API, and ends it."""

    def __init__(self, home: Path, environment: dict[str, str], cwd: Path) -> None:
        self.home, self.cwd = home, cwd
        home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        given = {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        }
        self.environment = airflow.environment(home, self.port, {**given, **environment})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.token = ""

    def start(self) -> None:
        subprocess.run([airflow.AIRFLOW, "db", "migrate"], env=self.environment, check=True, capture_output=True)
        for part in airflow.PARTS:
            self.start_part(part)
        self.until(lambda: airflow.healthy(self.port), "Airflow is healthy", 240)
        self.token = self.call("GET", "/auth/token", api="")["access_token"]

    def start_part(self, part: str) -> None:
        self.processes[part] = airflow.start(part, self.environment, cwd=self.cwd)

    def kill_part(self, part: str) -> None:
        """Kills a part and all its processes at once, as a node that loses power does."""
        process = self.processes.pop(part)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        airflow.stop(list(self.processes.values()))

    def call(self, method: str, path: str, body: Any = None, *, api: str = "/api/v2") -> Any:
        request = urllib.request.Request(
            self.url + quote(api + path, safe="/?=&:"),
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    until = staticmethod(until)

    def unpause(self, dag: str) -> None:
        self.until(lambda: self.call("PATCH", f"/dags/{dag}", {"is_paused": False}), f"{dag} is known")

    def trigger(self, dag: str, conf: dict[str, Any] | None = None, when: str | None = None) -> str:
        self.unpause(dag)
        return str(self.call("POST", f"/dags/{dag}/dagRuns", {"logical_date": when, "conf": conf or {}})["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/dags/{dag}/dagRuns")["dag_runs"])

    def states(self, dag: str, run: str) -> dict[str, str]:
        found = self.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def finished(self, dag: str, run: str, seconds: float = 180) -> dict[str, str]:
        """Waits for the end of a run and gives the states of its tasks."""

        def ended() -> bool:
            return self.call("GET", f"/dags/{dag}/dagRuns/{run}")["state"] in ("success", "failed")

        try:
            self.until(ended, f"{run} ends", seconds, pause=1)
        except AssertionError as error:
            raise AssertionError(f"{error}; tasks: {self.states(dag, run)}") from error
        return self.states(dag, run)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
