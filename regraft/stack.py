"""The laptop stack: an MLflow server on SQLite, a Triton server, and before that one what speaks OpenAI's API; all on
loopback, started and stopped from here.

What runs is written to `.regraft/stack.json`, so that `up` is idempotent and `down` stops exactly what `up` started.
Triton's token lies in `.regraft/triton.token`, which only its owner may read: without it, a page in the browser of who
works here could have code loaded.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from regraft import servers, settings
from regraft.errors import BadInput, Temporary

HOME = Path(".regraft")
TRITONSERVER = Path(".cache/tritonserver")
READY_SECONDS = 120
TRIES = 5
"""How often a server is started whose port another takes first."""
STOP_SECONDS = 40


MARK = "REGRAFT_STACK_MARK"
"""Variable of a server's environment that says which `up` started it."""


class Server(BaseModel):
    """A server of the stack: the process, told apart from a later one of the same pid by a mark in its environment.

    Not by when it was created: that moves when the clock is set.
    """

    url: str
    pid: int
    mark: str
    log: str
    ports: dict[str, int]

    @property
    def alive(self) -> bool:
        import psutil

        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # gone; or somebody else's by now
            return False

    @property
    def lost(self) -> set[int]:
        """Those of its ports on which another listens: whoever asks there is answered by a stranger."""
        import psutil

        answered = {port for port in self.ports.values() if _answered(port)}
        for member in _family(self.pid) if answered else ():
            with suppress(psutil.NoSuchProcess):
                answered -= {each.laddr.port for each in member.net_connections("tcp") if each.status == "LISTEN"}
        return answered


class Stack(BaseModel):
    """What `up` started."""

    mlflow: Server | None = None
    triton: Server | None = None
    openai: Server | None = None
    """Asks Triton; no step needs it."""

    @property
    def running(self) -> bool:
        return bool(self.mlflow and self.mlflow.alive and self.triton and self.triton.alive)


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
    exported = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS") if name in os.environ}
    token = settings.triton_token() if "REGRAFT_TRITON_URLS" in exported else triton_token(home)
    variables = {
        "REGRAFT_MODEL_REPOSITORY": str((home / "models").absolute()),
        "REGRAFT_TRITONSERVER": str(TRITONSERVER.absolute()),
    }
    if len(exported) < 2:
        stack = read(home)
        if not (stack.running and stack.mlflow and stack.triton):
            missing = " and ".join(sorted({"MLFLOW_TRACKING_URI", "REGRAFT_TRITON_URLS"} - set(exported)))
            ended = [server.log for server in (stack.mlflow, stack.triton) if server and not server.alive]
            raise Temporary(
                f"no MLflow server and no Triton server are up, and the environment does not name any ({missing})"
                + (f"; what was started has ended, see {' and '.join(ended)}" if ended else ""),
                where=str(home / "stack.json"),
                state="nothing was started",
                next="regraft up",
            )
        variables["MLFLOW_TRACKING_URI"] = stack.mlflow.url
        variables["REGRAFT_TRITON_URLS"] = stack.triton.url.removeprefix("http://")
        if stack.openai:
            variables[servers.OPENAI] = stack.openai.url
    named = {name: os.environ.get(name, value) for name, value in {**variables, **exported}.items()}
    settings.mlflow(named)  # here, before the first step works for hours
    settings.triton(named["REGRAFT_TRITON_URLS"])
    settings.model_repository(named["REGRAFT_MODEL_REPOSITORY"], here=True)
    return {**named, settings.TRITON_TOKEN: token} if token else named


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
    if _brought_up(stack, {"mlflow": _mlflow, "triton": _triton}, home, say) and stack.openai:
        _end(stack.openai)  # Triton may have another port than before
    _brought_up(stack, {"openai": _openai}, home, say)
    return stack


def _brought_up(
    stack: Stack, starts: Mapping[str, Callable[[Path], Server]], home: Path, say: Callable[[str], None]
) -> bool:
    """Starts those that do not run, and waits for all; says whether it started any. Raises Temporary."""
    started = False
    for name, start in starts.items():
        server: Server | None = getattr(stack, name)
        if server and server.alive:
            died = f"; it died and was started again: {len(deaths(home))}" if name == "triton" and deaths(home) else ""
            say(f"{name}: runs already at {server.url}{died}")
            continue
        started, server = True, start(home)
        setattr(stack, name, server)
        _write(home, stack)  # before it is ready, so that `down` finds it whatever happens now
        say(f"{name}: starting at {server.url}")
    for name, start in starts.items():
        for _ in range(TRIES):
            if not (lost := _wait(name, getattr(stack, name))):
                break
            _end(getattr(stack, name))
            setattr(stack, name, start(home))
            _write(home, stack)
            say(f"{name}: another took port {lost.pop()} first, starting at {getattr(stack, name).url}")
        else:
            raise Temporary(f"others took {name}'s ports {TRIES} times", next="regraft down, then regraft up")
        say(f"{name}: ready")
    return started


def down(*, home: Path = HOME, say: Callable[[str], None]) -> bool:
    """Stops what `up` started, and nothing else; False when nothing ran."""
    stack = read(home)
    stopped = False
    for name in ("openai", "triton", "mlflow"):
        server: Server | None = getattr(stack, name)
        if not (server and server.alive):
            continue
        stopped = True
        _end(server)
        say(f"{name}: stopped")
    (home / "stack.json").unlink(missing_ok=True)
    return stopped


def _end(server: Server) -> None:
    import psutil

    family = _family(server.pid) if server.alive else []
    for process in family[:1]:
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process.terminate()
            process.wait(STOP_SECONDS)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _family(pid: int) -> list[Any]:
    """A process and all that it started; none where it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


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
    token = settings.triton_token() or triton_token(home) or secrets.token_hex(32)
    with open(_token_file(home), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(token)
    command += [f"--{name}-port={port}" for name, port in ports.items()]
    return _start("triton", command, home, ports, {settings.TRITON_TOKEN: token})


def _openai(home: Path) -> Server:
    port, triton = free_port(8080), read(home).triton
    command = [sys.executable, "-m", "components.openai", f"--repository={(home / 'models').absolute()}"]
    command += [f"--triton={triton.url.removeprefix('http://') if triton else ''}", f"--port={port}"]
    return _start("openai", command, home, {"http": port}, {})


def _token_file(home: Path) -> Path:
    return home / "triton.token"


def triton_token(home: Path) -> str | None:
    """What the stack's Triton knows by who may control it; None where it has never been started."""
    try:
        return settings.triton_token({settings.TRITON_TOKEN: _token_file(home).read_text().strip()})
    except FileNotFoundError:
        return None


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
    log, mark = home / "logs" / f"{name}.log", uuid.uuid4().hex
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(url=f"http://127.0.0.1:{ports['http']}", pid=process.pid, mark=mark, log=str(log), ports=ports)
    while not server.alive and process.poll() is None:  # for an instant after exec a process has no environment yet
        time.sleep(0.001)
    return server


def free_port(wanted: int, *taken: int) -> int:
    """The usual port where nobody listens on it, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            bound = int(probe.getsockname()[1])
            if bound not in taken:
                return bound
    raise Temporary("no free port on loopback", next="regraft up")


def _answered(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(name: str, server: Server) -> set[int]:
    """Waits until a server is ready; gives the ports that others took first, and then it will never be."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        ready, alive = servers.ready(name, server.url), server.alive
        if (lost := server.lost) or (ready and alive):
            return lost
        if not alive or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    what = "ended" if not server.alive else f"did not answer within {READY_SECONDS} s"
    tail = "\n".join(Path(server.log).read_text(errors="replace").splitlines()[-15:])
    raise Temporary(f"the {name} server {what}:\n{tail}", where=server.log, next="regraft down, then regraft up")


def _write(home: Path, stack: Stack) -> None:
    fresh = home / f".stack-{os.getpid()}.json"
    fresh.write_text(stack.model_dump_json(indent=1))
    fresh.replace(home / "stack.json")
