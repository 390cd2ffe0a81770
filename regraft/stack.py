"""The laptop stack: an MLflow server on SQLite and a Triton server, on loopback, both started and stopped from here.

What runs is written to `.regraft/stack.json`, so that `up` is idempotent and `down` stops exactly what `up` started.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from regraft import settings
from regraft.errors import BadInput, Temporary

HOME = Path(".regraft")
TRITONSERVER = Path(".cache/tritonserver")
READY_SECONDS = 120
STOP_SECONDS = 40


class Server(BaseModel):
    """A server of the stack: the process, told apart from a later one of the same pid by when it was created."""

    url: str
    pid: int
    created: float
    log: str
    ports: dict[str, int]

    @property
    def alive(self) -> bool:
        import psutil

        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Stack(BaseModel):
    """What `up` started."""

    mlflow: Server | None = None
    triton: Server | None = None

    @property
    def running(self) -> bool:
        return bool(self.mlflow and self.mlflow.alive and self.triton and self.triton.alive)


HEALTH = {"mlflow": "/health", "triton": "/v2/health/ready"}


def read(home: Path = HOME) -> Stack:
    """The stack that was started from this folder, running or not."""
    try:
        return Stack.model_validate_json((home / "stack.json").read_bytes())
    except FileNotFoundError:
        return Stack()
    except ValueError as error:
        raise BadInput(
            f"is damaged: {error}", where=str(home / "stack.json"), next="end the servers by hand, remove the file"
        ) from error


def environment(home: Path = HOME) -> dict[str, str]:
    """The variables that point a step to the stack; those that this process has itself win.

    Raises:
        Temporary: neither the environment names servers nor is the stack up.
        BadInput: what the environment names is no server.
    """
    given = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS") if name in os.environ}
    found = {
        "REGRAFT_MODEL_REPOSITORY": str((home / "models").absolute()),
        "REGRAFT_TRITONSERVER": str(TRITONSERVER.absolute()),
    }
    if len(given) < 2:
        stack = read(home)
        if not (stack.running and stack.mlflow and stack.triton):
            missing = " and ".join(sorted({"MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS"} - set(given)))
            raise Temporary(
                f"no MLflow server and no Triton server are up, and the environment does not name any ({missing})",
                where=str(home / "stack.json"),
                state="nothing was started",
                next="regraft up",
            )
        found["MLFLOW_TRACKING_URI"] = stack.mlflow.url
        found["REGRAFT_TRITON_URLS"] = stack.triton.url.removeprefix("http://")
    named = {name: os.environ.get(name, value) for name, value in {**found, **given}.items()}
    settings.mlflow(named)  # here, before the first step works for hours
    settings.triton(named["REGRAFT_TRITON_URLS"])
    settings.model_repository(named["REGRAFT_MODEL_REPOSITORY"], here=True)
    return named


def up(*, home: Path = HOME, say: Callable[[str], None]) -> Stack:
    """Starts what does not run yet and waits until it answers.

    Args:
        say: is told in a few words what happens.

    Raises:
        Temporary: a server ended or did not answer in time; the message has the end of its log.
        BadInput: there is no Triton server to start.
    """
    (home / "logs").mkdir(parents=True, exist_ok=True)
    (home / "models").mkdir(exist_ok=True)
    stack = read(home)
    for name, start in (("mlflow", _mlflow), ("triton", _triton)):
        server: Server | None = getattr(stack, name)
        if server and server.alive:
            died = f"; it died and was started again: {len(deaths(home))}" if name == "triton" and deaths(home) else ""
            say(f"{name}: runs already at {server.url}{died}")
            continue
        server = start(home)
        setattr(stack, name, server)
        _write(home, stack)  # before it is ready, so that `down` finds it whatever happens now
        say(f"{name}: starting at {server.url}")
    for name in ("mlflow", "triton"):
        server = getattr(stack, name)
        _wait(name, server)
        say(f"{name}: ready")
    return stack


def down(*, home: Path = HOME, say: Callable[[str], None]) -> bool:
    """Stops what `up` started, and nothing else; False when nothing ran."""
    import psutil

    stack = read(home)
    stopped = False
    for name in ("triton", "mlflow"):
        server: Server | None = getattr(stack, name)
        if not (server and server.alive):
            continue
        stopped = True
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(server.pid)
            family = [process, *process.children(recursive=True)]
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(STOP_SECONDS)
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        say(f"{name}: stopped")
    (home / "stack.json").unlink(missing_ok=True)
    return stopped


def _mlflow(home: Path) -> Server:
    port = free_port(5000)
    variables = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{home.absolute() / 'mlflow.db'}"]
    command += ["--serve-artifacts", f"--artifacts-destination={home.absolute() / 'mlartifacts'}"]
    return _start("mlflow", command, home, {"http": port}, variables)


def _triton(home: Path) -> Server:
    if "REGRAFT_TRITONSERVER" not in os.environ and not (TRITONSERVER / "bin" / "tritonserver").exists():
        raise BadInput("there is no Triton server", where=str(TRITONSERVER), next="make triton")
    http = free_port(8000)
    grpc = free_port(8001, http)
    ports = {"http": http, "grpc": grpc, "metrics": free_port(8002, http, grpc)}
    command = [sys.executable, "-m", "components.deploy.serve", f"--repository={(home / 'models').absolute()}"]
    command.append(f"--restart={_deaths(home).absolute()}")
    return _start("triton", command + [f"--{name}-port={port}" for name, port in ports.items()], home, ports, {})


def deaths(home: Path = HOME) -> list[str]:
    """When and of what the stack's Triton died since `up`; it was started again each time."""
    if not read(home).triton:
        return []
    with suppress(FileNotFoundError):
        return _deaths(home).read_text().splitlines()
    return []


def _deaths(home: Path) -> Path:
    return home / "logs" / "triton.deaths"


def _start(name: str, command: list[str], home: Path, ports: dict[str, int], variables: Mapping[str, str]) -> Server:
    import psutil

    log = home / "logs" / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    url = f"http://127.0.0.1:{ports['http']}"
    return Server(url=url, pid=process.pid, created=created, log=str(log), ports=ports)


def free_port(wanted: int, *taken: int) -> int:
    """The usual port where nobody listens on it, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found = int(probe.getsockname()[1])
            if found not in taken:
                return found
    raise Temporary("no free port on loopback", next="regraft up")


def _wait(name: str, server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.alive:
        with suppress(OSError), urllib.request.urlopen(server.url + HEALTH[name], timeout=5):  # noqa: S310  loopback
            return
        time.sleep(0.1)
    what = "ended" if not server.alive else f"did not answer within {READY_SECONDS} s"
    tail = "\n".join(Path(server.log).read_text(errors="replace").splitlines()[-15:])
    raise Temporary(f"the {name} server {what}:\n{tail}", where=server.log, next="regraft down, then regraft up")


def _write(home: Path, stack: Stack) -> None:
    fresh = home / f".stack-{os.getpid()}.json"
    fresh.write_text(stack.model_dump_json(indent=1))
    fresh.replace(home / "stack.json")


def ask(url: str, *, body: Mapping[str, Any] | None = None, timeout: float = 10) -> Any:
    """The JSON that a server answers; None where it does not answer or knows no such thing."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return json.loads(answer.read() or b"{}")
    except (OSError, ValueError):
        return None
