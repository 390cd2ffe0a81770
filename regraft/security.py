"""What stands open where regraft runs, and what to type against it: `regraft doctor --security`.

Servers are asked as a stranger would ask them, without token or password, by reading requests only. MLflow tells
its version to its users alone, so that is asked for with the environment's login.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from regraft import disk, servers, settings, signing
from regraft.errors import BadInput

FLOORS = {
    "mlflow": ((3, 11), "MLflow 3.11"),
    "vllm": ((0, 18), "vLLM 0.18"),
    "triton": ((2, 67), "Triton 2.67, that is release 26.03 (NVIDIA's security bulletin 5828)"),
}
"""The oldest versions without a known way in."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """One thing that was looked at: what it says, and what to type where it is open."""

    name: str
    open: bool
    says: str
    next: str | None = None


def doors(environment: Mapping[str, str] = os.environ) -> list[Door]:
    """All that was looked at, open or closed."""
    servers_and_store = (*_triton(environment), *_mlflow(environment), *_store(environment))
    return [*servers_and_store, *_packages(), *_pickles(environment), *_recipes(environment)]


def _triton(environment: Mapping[str, str]) -> Iterator[Door]:
    urls = environment.get("REGRAFT_TRITON_URLS")
    addresses = settings.triton(urls) if urls else ()
    for address in addresses:
        if address.startswith("kubernetes:"):
            continue  # its replicas are found from inside the cluster only; the chart makes their token
        name = f"Triton {address}"
        status, _ = _asked(f"http://{address}/v2/repository/index", post=True)
        if status is None:
            yield Door(name=name, open=False, says="does not answer: nothing to look at")
            continue
        if status < 400:
            says = "anybody who reaches it may load models, which is to run code in it"
            mend = f"export {settings.TRITON_TOKEN}=$(openssl rand -hex 32)"
            mend += ", and start it anew: regraft down, regraft up"
            yield Door(name=name, open=True, says=says, next=mend)
        else:
            yield Door(name=name, open=False, says="takes control with a token only")
        said = servers.ask(f"http://{address}/v2")
        version = str(said["version"]) if isinstance(said, dict) and "version" in said else None
        yield _version(name, "triton", version, "pull a newer image; see docs/images.md")
        yield from _in_the_clear(name, f"http://{address}", open=False)  # it speaks nothing else


def _mlflow(environment: Mapping[str, str]) -> Iterator[Door]:
    try:
        url = settings.mlflow(environment)
    except BadInput:
        return
    shown = settings.public(url)
    name, here = f"MLflow {shown}", _loopback(shown)
    status, _ = _asked(f"{shown}/api/2.0/mlflow/experiments/search?max_results=1")
    if status is None:
        yield Door(name=name, open=False, says="does not answer: nothing to look at")
        return
    if status < 400:
        says = "answers without a password: who reaches it may change runs, versions and aliases"
        says += "; only this machine's users do" if here else ""
        mend = "start it with `mlflow server --app-name basic-auth` (the chart does: mlflow.auth.enabled)"
        yield Door(name=name, open=not here, says=says, next=mend)
    else:
        yield Door(name=name, open=False, says="asks for a password")
    answered, said = _asked(f"{shown}/version", headers=settings.mlflow_login(environment))
    if answered in (401, 403):
        says = "says its version to its users only: export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        yield Door(name=name, open=False, says=says)
    else:
        version = re.match(r"[\d.]+", said)
        yield _version(name, "mlflow", version and version[0], "pip install -U mlflow where the server runs")
    yield from _in_the_clear(name, url, open=True)


def _store(environment: Mapping[str, str]) -> Iterator[Door]:
    url = environment.get("REGRAFT_STORE", "")
    if not disk.is_path(url):
        signed = signing.wanted(environment)
        says = "nothing is read of it that is not signed" if signed else "who may write to it is believed"
        mend = None if signed else f"{signing.EXAMPLE}; regraft sign NAME"
        yield Door(name=f"store {settings.public(url)}", open=not signed, says=says, next=mend)


def _packages() -> Iterator[Door]:
    for package in ("mlflow", "vllm"):  # the package triton is OpenAI's compiler
        _, floor = FLOORS[package]
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield _version(f"package {package}", package, version, f"pip install -U {package}  (at least {floor})")


def _pickles(environment: Mapping[str, str]) -> Iterator[Door]:
    names = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    for name, closed in names.items():
        if environment.get(name, closed).strip().lower() not in ("", "0", "false", "no"):
            says = "pickled models may be loaded, which run code as they are"
            yield Door(name=name, open=True, says=says, next=f"unset {name}")


def _recipes(environment: Mapping[str, str]) -> Iterator[Door]:
    """What recipes may name beyond what is open everywhere."""
    listed = settings.protocols(environment)
    if wide := [protocol for protocol in listed if protocol not in (*settings.PROTOCOLS, "file")]:
        says = f"recipes may name {', '.join(wide)}: whoever writes one reaches what the steps reach by it"
        mend = "leave out what no recipe needs: export REGRAFT_PROTOCOLS="
        mend += ",".join(protocol for protocol in listed if protocol not in wide)
        yield Door(name="REGRAFT_PROTOCOLS", open=True, says=says, next=mend)
    telling = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|CONN", re.IGNORECASE)
    if secret := [name for name in settings.variables(environment) if telling.search(name)]:
        says = f"recipes may name {', '.join(secret)}: whoever writes one can send away what it holds"
        yield Door(name="REGRAFT_VARIABLES", open=True, says=says, next="list places only, no secrets")


def _version(name: str, product: str, version: str | None, mend: str) -> Door:
    floor, words = FLOORS[product]
    numbers = tuple(int(part) for part in re.findall(r"\d+", version or "")[:2])
    if not numbers:
        return Door(name=name, open=True, says="does not say its version", next=mend)
    says = f"is version {version}"
    return Door(name=name, open=numbers < floor, says=f"{says}; known holes are mended from {words} on", next=mend)


def _in_the_clear(name: str, url: str, *, open: bool) -> Iterator[Door]:
    """Whether tokens and passwords travel readably between machines."""
    if url.startswith("http://") and not _loopback(url):
        says = "is spoken to by plain HTTP on another machine: a token or password can be read on the way"
        mend = "keep both in one cluster's network behind its policies (the chart's), or use https://"
        yield Door(name=name, open=open, says=says, next=mend)


def _loopback(url: str) -> bool:
    """Whether a URL leads to this machine only."""
    host = urlsplit(url).hostname or ""
    try:
        return all(ipaddress.ip_address(str(info[4][0])).is_loopback for info in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def _asked(url: str, *, post: bool = False, headers: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Status and the beginning of the answer of a server; None where there is none."""
    data = b"{}" if post else None
    request = urllib.request.Request(url, data=data, headers={**(headers or {})})  # noqa: S310  settings has looked
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status), answer.read(2000).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except servers.NO_ANSWER:
        return None, ""
