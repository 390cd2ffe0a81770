"""The variables of the environment that name servers and folders: each is read and checked here, before any work."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from regraft.errors import BadInput

TRITON_EXAMPLE = "export REGRAFT_TRITON_URLS=127.0.0.1:8000,127.0.0.1:8010"


def mlflow(environment: Mapping[str, str] = os.environ) -> str:
    """URL of the MLflow server: MLFLOW_TRACKING_URI. Raises BadInput."""
    uri = environment.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        raise BadInput(
            "no MLflow server is configured",
            where="MLFLOW_TRACKING_URI",
            next="regraft up, or export MLFLOW_TRACKING_URI=http://HOST:5000",
        )
    _server("MLFLOW_TRACKING_URI", uri, "http://HOST:5000")
    return uri.rstrip("/")


def public(url: str) -> str:
    """A URL without what may be secret in it."""
    return re.sub(r"//[^/]*@", "//", url)


def aws_endpoint() -> None:
    """Checks AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_S3, which S3's client reads itself. Raises BadInput."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        if name in os.environ and os.environ[name] != os.environ[name].strip():
            raise _wrong(name, repr(os.environ[name]), "has space or a line's end around it", "http://HOST:9000")
        if os.environ.get(name):
            _server(name, os.environ[name], "http://HOST:9000")


def scratch() -> str | None:
    """Folder below which steps have their own: REGRAFT_SCRATCH; None: where the system has such. Raises BadInput."""
    folder = os.environ.get("REGRAFT_SCRATCH")
    if not folder:
        return None
    if not os.path.isdir(folder):
        what = "is no folder" if os.path.exists(folder) else "does not exist"
        raise BadInput(
            f"the folder for temporary files {what}: {folder}",
            where="REGRAFT_SCRATCH",
            next=f"mkdir -p {folder}, or unset REGRAFT_SCRATCH",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(
            f"the folder for temporary files may not be written: {folder}",
            where="REGRAFT_SCRATCH",
            next="export REGRAFT_SCRATCH=FOLDER with one of your own, or unset it",
        )
    return folder


def model_repository(folder: str, *, here: bool) -> Path:
    """The folder that Triton reads models from: REGRAFT_MODEL_REPOSITORY. Raises BadInput.

    Args:
        here: whether this machine writes into it; a pod of a step before deploy does not see it.
    """
    example = "export REGRAFT_MODEL_REPOSITORY=FOLDER, the one that Triton was started with"
    above = path = Path(folder).absolute()
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    what = None
    if "://" in folder:
        what = "is a URL, and Triton's models lie in a folder"
    elif not above.is_dir():
        what = f"is no folder: {above} is none, or a link that leads nowhere"
    elif here and not os.access(above, os.W_OK | os.X_OK):
        what = f"may not be written: {above} is not yours"
    if what:
        raise BadInput(f"{folder} {what}", where="REGRAFT_MODEL_REPOSITORY", next=example)
    return path


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Checks what is set, whichever step it is for: a later one would find it wrong after hours. Raises BadInput."""
    if environment.get("MLFLOW_TRACKING_URI", "").strip():
        mlflow(environment)
    if urls := environment.get("REGRAFT_TRITON_URLS"):
        triton(urls)
    if folder := environment.get("REGRAFT_MODEL_REPOSITORY"):
        model_repository(folder, here=False)


def triton(urls: str) -> tuple[str, ...]:
    """host:port of each replica that REGRAFT_TRITON_URLS lists, or the one kubernetes:/// address. Raises BadInput."""
    listed = tuple(url.strip() for url in urls.split(","))
    if any(url.startswith("kubernetes:") for url in listed):
        try:
            if len(listed) > 1 or not re.fullmatch(r"kubernetes:///[a-z0-9-]+\.[a-z0-9-]+:[^:]*", listed[0]):
                raise ValueError("it is kubernetes:///SERVICE.NAMESPACE:PORT")
            _place(listed[0].removeprefix("kubernetes:///"))
        except ValueError as error:
            raise BadInput(
                f"not the address of a Service: {urls!r}: {error}",
                where="REGRAFT_TRITON_URLS",
                next="export REGRAFT_TRITON_URLS=kubernetes:///regraft-triton-replicas.NAMESPACE:8000",
            ) from error
        return listed
    found = tuple(_address(url, urls) for url in listed)
    for address in found:
        if found.count(address) > 1:
            raise _wrong_triton(f"names {address} twice: {urls!r}")
    return found


def _address(url: str, urls: str) -> str:
    if not url:
        raise _wrong_triton(f"has an empty entry: {urls!r}")
    if "://" in url and not url.startswith("http://"):
        raise _wrong_triton(f"{url!r}: Triton is spoken to by plain HTTP, without a scheme in front")
    address = url.removeprefix("http://").rstrip("/")
    try:
        if not _place(address):
            raise ValueError("it is not HOST:PORT")
    except ValueError as error:
        raise _wrong_triton(f"{url!r}: {error}") from error
    return address


def _place(address: str) -> str:
    """The port of HOST:PORT, empty where there is none. Raises ValueError, which says what is wrong."""
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^\s:/?#@\[\]]+))(?::([0-9]+))?", address)
    if not match:
        raise ValueError("it is not HOST:PORT")
    ip, name, port = match.groups(default="")
    if port and not (len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"there is no port {port}, they end at 65535")
    try:
        if not name:
            ipaddress.IPv6Address(ip)
        elif len(name) > 253 or not re.fullmatch(r"[A-Za-z0-9._-]+", name.encode("idna").decode()):
            raise ValueError
    except ValueError as error:  # UnicodeError, of labels that are empty or too long, is one
        raise ValueError(f"there is no host {ip or name}") from error
    return port


def _wrong_triton(what: str) -> BadInput:
    mend = f"{TRITON_EXAMPLE}  (the HTTP port of each replica, 8000 as Triton has it; not 8001, which is gRPC)"
    return BadInput(what, where="REGRAFT_TRITON_URLS", next=mend)


def _server(name: str, url: str, example: str) -> None:
    """Raises BadInput unless a URL is that of a server."""
    shown = public(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _wrong(name, shown, f"is no URL: {error}", example) from error
    if parts.scheme not in ("http", "https"):
        raise _wrong(name, shown, "does not begin with http:// or https://", example)
    try:
        _place(parts.netloc.rpartition("@")[2])
    except ValueError as error:
        raise _wrong(name, repr(shown), f"names no server: {error}", example) from error
    if parts.query or parts.fragment or re.search(r"\s", url):
        raise _wrong(name, repr(shown), "has more behind the server's address", example)


def _wrong(name: str, value: str, what: str, example: str) -> BadInput:
    return BadInput(f"{value} {what}", where=name, next=f"export {name}={example}")
