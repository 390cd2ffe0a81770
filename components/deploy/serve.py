"""Starts a Triton server: the private one of a trial, the one of the laptop stack, and those of the tests.

`python -m components.deploy.serve --repository DIR` becomes the server itself (same process), so whoever started it
stops it with SIGTERM and it ends when its requests are answered. What follows `--` goes to tritonserver as it is, and
wins over what is chosen here.

With `--restart FILE` it stays beside the server, starts it again when it dies, and writes each death to FILE. With
`--front`, an nginx that dies with the server takes the HTTP requests: see components/deploy/front.py.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.deploy import front, keeper, nesting, unseen
from regraft import escaped, settings
from regraft.errors import BadInput, RegraftError, Temporary

# What lets a client run code in the server, or reach into its memory.
CONTROL = "model-repository,shared-memory,logging,trace"


@dataclass(frozen=True, kw_only=True)
class Ports:
    http: int
    grpc: int
    metrics: int


def free_ports() -> Ports:
    """Three ports of loopback that nobody listens on now."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for one in (a, b, c):
            one.bind(("127.0.0.1", 0))
        return Ports(http=a.getsockname()[1], grpc=b.getsockname()[1], metrics=c.getsockname()[1])


def home(folder: str | Path | None = None) -> Path:
    """The folder of the Triton server: the argument, else REGRAFT_TRITONSERVER, else .cache/tritonserver.

    Raises:
        BadInput: no server is there.
    """
    chosen = Path(folder or os.environ.get("REGRAFT_TRITONSERVER") or ".cache/tritonserver").absolute()
    if not os.access(chosen / "bin" / "tritonserver", os.X_OK):
        raise BadInput(
            "no Triton server is there: bin/tritonserver is missing",
            where=str(chosen),
            next="make tritonserver, or set REGRAFT_TRITONSERVER to its folder, such as /opt/tritonserver",
        )
    return chosen


def command(
    server: Path,
    *,
    repository: Path,
    ports: Ports,
    address: str = "127.0.0.1",
    exit_timeout: int = 30,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command line of a server whose models are loaded and unloaded by request only.

    At its start it loads all that the repository holds, so a replica that restarts serves again by itself. A model that
    fails to load must take neither the server nor its readiness away from the others.

    Args:
        address: what it listens on.
        exit_timeout: seconds that clients have, once it is told to stop, to take their answers and hang up.
        extra: options of tritonserver that win over those chosen here.
    """
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        f"--cache-directory={server / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name=regraft-{uuid.uuid4().hex[:12]}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={exit_timeout}",
        *(f"--{kind}-address={address}" for kind in ("http", "grpc", "metrics")),
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        "--allow-cpu-metrics=false",
        "--allow-gpu-metrics=false",
        "--log-verbose=0",
        *extra,
    ]


def _controlled_by(token: str | None) -> tuple[list[str], dict[str, str]]:
    """The arguments by which only requests with a token may control the server, and the variables that they lie in."""
    if token is None:
        return [], {}
    value = f"{CONTROL}:{settings.TRITON_HEADER}={token}"
    arguments = [f"--http-restricted-api={value}", f"--grpc-restricted-protocol={value}"]
    if unseen.possible():
        return unseen.hide(arguments)
    print(
        "serve: Triton's token stands on its command line, where each user of this machine (in a container: each "
        "process of it) can read it, since no process may be traced (ptrace) here",
        file=sys.stderr,
        flush=True,
    )
    return arguments, {}


def environment(server: Path) -> dict[str, str]:
    """The environment in which the server finds its libraries, and the Python backend this Python and its packages."""
    libraries = [str(server / "lib"), str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    own = server / "python" / "bin"  # see components/deploy/tritonserver.py; NVIDIA's image has none
    python = own if own.is_dir() else Path(sys.executable).parent
    return {
        **variables,
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "PATH": f"{python}:{os.environ.get('PATH', '')}",
        "PYTHONDONTWRITEBYTECODE": "1",  # version directories are immutable
        "TOKENIZERS_PARALLELISM": "false",
    }


def _die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks Linux to kill this process when its parent dies, so that a killed deploy leaves no trial server behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, number)


def _before_exec() -> None:
    """What a process does just before it becomes the server."""
    nesting.deepen()
    unseen.reveal_after_exec()


def _prepare() -> None:
    """What a child does just before it becomes the server."""
    _die_with_parent()
    _before_exec()


@dataclass(kw_only=True)
class Running:
    """A server that this process started."""

    process: subprocess.Popen[bytes]
    ports: Ports
    log: Path

    @property
    def address(self) -> str:
        """host:port of its HTTP endpoint."""
        return f"127.0.0.1:{self.ports.http}"


@contextmanager
def running(
    *, repository: Path, log: Path, server: str | Path | None = None, token: str | None = None, timeout: float = 120
) -> Iterator[Running]:
    """A server on free loopback ports, ready for requests, that ends with the block or with this process.

    Args:
        repository: the model repository; all that is in it is loaded.
        log: file that takes the server's log.
        server: see `home`.
        token: only who sends it may control the server; that of the settings when left out, and without one anybody.
        timeout: seconds to wait for it to be ready.

    Raises:
        Temporary: it ended or was not ready in time; the message holds the end of its log.
    """
    folder = home(server)
    ports = free_ports()
    words, hidden = _controlled_by(token or settings.triton_token())
    started = command(folder, repository=repository, ports=ports, exit_timeout=5, extra=words)
    with log.open("ab") as output:
        process = subprocess.Popen(
            started,
            env={**environment(folder), **hidden},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_prepare,
        )
    try:
        _wait(process, ports.http, log, timeout)
        yield Running(process=process, ports=ports, log=log)
    finally:
        _stop(process)
        _sweep(started)


def _sweep(started: Sequence[str]) -> None:
    """Removes the shared memory that a server which was killed leaves behind."""
    prefix = next(part for part in started if "shm-region-prefix-name" in part).rpartition("=")[2]
    for leftover in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108  where Triton puts it
        leftover.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[Any], port: int, log: Path, timeout: float) -> None:
    import urllib3

    deadline = time.monotonic() + timeout
    # A connection left open would hold the server up when it stops: it waits for its clients to go.
    with urllib3.PoolManager(headers={"Connection": "close"}, retries=False) as http:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(urllib3.exceptions.HTTPError):
                if http.request("GET", f"http://127.0.0.1:{port}/v2/health/ready").status == 200:
                    return
            time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    what = "ended" if process.poll() is not None else f"was not ready after {timeout:.0f} s"
    raise Temporary(f"the Triton server {what}:\n{tail}", where=str(log), next="repeat the command")


def _stop(process: subprocess.Popen[Any]) -> None:
    """SIGTERM, then SIGKILL to all that it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _make(repository: Path) -> None:
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"the model repository is not there and cannot be made: {error.strerror}",
            where=str(repository),
            next=f"mount it, so that user {os.getuid()} can read it",
        ) from error


def _start_front(address: str, port: int, triton: int) -> None:
    """Starts what listens in front of the server that this process becomes."""
    front.nginx()
    # SIGTERM when this process ends: nginx ends its workers only if it is asked to.
    subprocess.Popen(
        [sys.executable, "-m", "components.deploy.front", address, str(port), str(triton)],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _die_with_parent(signal.SIGTERM),
    )


def _token() -> str:
    """The token of the settings; where there is none, one that nobody knows."""
    token = settings.triton_token()
    if token is None:
        text = f"serve: {settings.TRITON_TOKEN} is not set, so nobody may load or unload models by request"
        print(text, file=sys.stderr, flush=True)
    return token or secrets.token_hex(32)


def main() -> int:
    escaped.stderr()
    parser = argparse.ArgumentParser(prog="python -m components.deploy.serve", description="Starts a Triton server.")
    parser.add_argument("--repository", type=Path, required=True, help="the model repository; made if it is not there")
    parser.add_argument("--server", help="folder of the server (default: REGRAFT_TRITONSERVER or .cache/tritonserver)")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument(
        "--exit-timeout", type=int, default=30, help="seconds for open requests once it is told to stop (default: 30)"
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--front", action="store_true", help="nginx takes the HTTP requests, with a limit on their size")
    kept.add_argument(
        "--restart", type=Path, metavar="FILE", help="start it again when it dies; FILE takes a line for each death"
    )
    parser.add_argument(
        "extra", nargs="*", metavar="-- OPTION", help="options of tritonserver, such as --log-verbose=1"
    )
    arguments = parser.parse_args()
    try:
        for option in arguments.extra if arguments.front else ():
            if option.startswith(("--http-port", "--http-address")):
                raise BadInput(
                    f"{option} is not for tritonserver here: --front listens where it would",
                    next="give --address and --http-port before the --",
                )
        server = home(arguments.server)
        _make(arguments.repository)
        http = free_ports().http if arguments.front else arguments.http_port
        behind = ["--http-address=127.0.0.1"] if arguments.front else []
        ports = Ports(http=http, grpc=arguments.grpc_port, metrics=arguments.metrics_port)
        words, hidden = _controlled_by(_token())
        variables = {**environment(server), **hidden}
        started = command(
            server,
            repository=arguments.repository.absolute(),
            ports=ports,
            address=arguments.address,
            exit_timeout=arguments.exit_timeout,
            extra=[*behind, *words, *arguments.extra],
        )
        if arguments.front:
            _start_front(arguments.address, arguments.http_port, ports.http)
        if arguments.restart:
            try:
                return keeper.keep(
                    started,
                    variables,
                    deaths=arguments.restart,
                    prepare=_prepare,
                    say=lambda text: print(f"serve: {text}", file=sys.stderr, flush=True),
                )
            finally:
                _sweep(started)
        _before_exec()
        os.execve(started[0], started, variables)  # noqa: S606
    except RegraftError as error:
        print(f"serve: {error}", file=sys.stderr)
        return int(error.exit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
