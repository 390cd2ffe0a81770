"""Airflow on this machine, for `make airflow`: four processes on loopback, SQLite, the laptop stack behind the steps.

`airflow standalone` would do but for its log servers, which listen on all interfaces.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
AIRFLOW = ROOT / ".venv-airflow/bin/airflow"
PARTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
PORT = 8080


def environment(home: Path, port: int, given: Mapping[str, str]) -> dict[str, str]:
    """Airflow's settings: those of dags/local.env, and what is different for each machine; `given` wins."""
    lines = (ROOT / "dags/local.env").read_text(encoding="utf-8").splitlines()
    url = f"http://127.0.0.1:{port}"
    return {
        **os.environ,
        **dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        **given,
    }


def start(part: str, variables: Mapping[str, str], *, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
    """Starts one of Airflow's processes in a group of its own, its output in AIRFLOW_HOME."""
    with (Path(variables["AIRFLOW_HOME"]) / f"{part}.log").open("ab") as log:
        return subprocess.Popen(
            [AIRFLOW, part, *PARTS[part]], env=variables, cwd=cwd, stdout=log, stderr=log, start_new_session=True
        )


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends Airflow's processes and all that they started; steps save their work."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(port: int) -> bool:
    """Whether the API answers that scheduler, DAG processor and triggerer beat."""
    with suppress(OSError, ValueError, KeyError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=10) as answer:
            health = json.loads(answer.read())
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))
    return False


def main() -> None:
    from regraft import stack

    home = ROOT / ".regraft/airflow"
    home.mkdir(parents=True, exist_ok=True)
    given = {
        "REGRAFT_STORE": str(ROOT / ".regraft/store"),
        "REGRAFT_DATA": str(ROOT / ".cache/data"),
        "REGRAFT_PYTHON": str(ROOT / ".venv/bin/python"),
        **stack.environment(),
    }
    port = int(os.environ.get("AIRFLOW_PORT") or stack.free_port(PORT))
    variables = environment(home, port, given)
    print("Airflow starts; that takes about a minute", flush=True)
    subprocess.run([AIRFLOW, "db", "migrate"], env=variables, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [AIRFLOW, "pools", "set", "regraft_gpu", "1", "GPUs that steps may use at once"],
        env=variables,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    processes = {part: start(part, variables) for part in PARTS}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while not healthy(port):
            for part, process in processes.items():
                if process.poll() is not None:
                    sys.exit(f"a part of Airflow ended: {part}\n  next:  less {home}/{part}.log")
            time.sleep(1)
        passwords = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text(encoding="utf-8"))
        print(f"http://127.0.0.1:{port}  login: admin  password: {passwords['admin']}")
        print(
            "press Trigger at movie-sentiment; Ctrl-C ends Airflow, then make down ends MLflow and Triton", flush=True
        )
        while True:
            for part, process in processes.items():
                if process.poll() is not None:  # on SQLite, two writers at once can end the scheduler
                    print(f"Airflow's {part} ended, see {home}/{part}.log; it is started again", flush=True)
                    processes[part] = start(part, variables)
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        stop(list(processes.values()))


if __name__ == "__main__":
    main()
