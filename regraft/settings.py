"""The variables of the environment that name servers and folders, and what recipes may name: each is read and checked
here, before any work."""

from __future__ import annotations

import ipaddress
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from regraft import signing
from regraft.errors import BadInput

ROWS, GIB, SLICES = "REGRAFT_SOURCE_ROWS", "REGRAFT_SOURCE_GIB", "REGRAFT_SLICES"
_MOST = {ROWS: 100_000_000, GIB: 64, SLICES: 1000}
"""What data may ask for at most, where the operator says nothing else: more than any that a step could work on."""
VARIABLES = ("REGRAFT_DATA", "REGRAFT_BASE_MODEL")
"""What the locations of a recipe may always name: places, and no secrets."""
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "package")
"""By what they may name a place where nothing is said: what reaches no server of the inner network."""
REMOTE_CODE = "REGRAFT_REMOTE_CODE"
TRITON_EXAMPLE = "export REGRAFT_TRITON_URLS=127.0.0.1:8000,127.0.0.1:8010"
TRITON_TOKEN = "REGRAFT_TRITON_TOKEN"  # noqa: S105 - the name of the variable
JUDGE, JUDGE_KEY = "REGRAFT_JUDGE_URL", "REGRAFT_JUDGE_KEY"
TRITON_HEADER = "regraft-token"
"""Who may load models may run code in Triton, so that takes this header with the token of that variable."""


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


def mlflow_login(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header by which MLflow knows who asks, as its own client makes it; none where nothing is set.

    It is of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, else of MLFLOW_TRACKING_TOKEN.
    """
    user, password, token = (environment.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD", "TOKEN"))
    if user and password:
        pair = f"{user}:{password}".encode(errors="surrogateescape")
        return {"Authorization": f"Basic {b64encode(pair).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def most(name: str, environment: Mapping[str, str] = os.environ) -> int:
    """The most rows or GiB that a source may have, or slices a column: one of ROWS, GIB, SLICES. Raises BadInput."""
    value = environment.get(name, "").strip() or str(_MOST[name])
    if not re.fullmatch(r"[1-9][0-9]{0,11}", value):
        raise _wrong(name, repr(value), "is not a whole number from 1", str(_MOST[name]))
    return int(value)


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


def variables(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The variables that recipes may name: `VARIABLES` and those of REGRAFT_VARIABLES. Raises BadInput."""
    named = _listed("REGRAFT_VARIABLES", environment)
    for name in named:
        wrong = None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            wrong = "is no name of a variable"
        elif name.upper().startswith("AIRFLOW_"):
            wrong = "is Airflow's own, whose variables hold its keys and connections"
        if wrong:
            raise _wrong("REGRAFT_VARIABLES", repr(name), wrong, "OUR_BUCKET,OUR_MODELS")
    return (*VARIABLES, *named)


def protocols(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The protocols that recipes may name: REGRAFT_PROTOCOLS, of which `file` is paths. Raises BadInput.

    Where that says nothing, they are `PROTOCOLS`, and paths where steps are processes: in pods lie others' secrets.
    """
    named = _listed("REGRAFT_PROTOCOLS", environment)
    for name in named:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", name):
            raise _wrong("REGRAFT_PROTOCOLS", repr(name), "is no protocol", ",".join((*PROTOCOLS, "file")))
    pods = environment.get("REGRAFT_CLUSTER") or environment.get("KUBERNETES_SERVICE_HOST")  # which each pod has
    return named or (PROTOCOLS if pods else (*PROTOCOLS, "file"))


def remote_code(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The commits of the Hub whose Python code base models may run, each as repository@commit. Raises BadInput."""
    named = _listed(REMOTE_CODE, environment)
    for entry in named:
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*@[0-9a-f]{40}", entry):
            raise _wrong(REMOTE_CODE, repr(entry), "is not OWNER/NAME@COMMIT with all 40 digits", "OWNER/NAME@COMMIT")
    return named


def _listed(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, (entry.strip() for entry in environment.get(name, "").split(","))))


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Checks what is set, whichever step it is for: a later one would find it wrong after hours. Raises BadInput."""
    if environment.get("MLFLOW_TRACKING_URI", "").strip():
        mlflow(environment)
    if urls := environment.get("REGRAFT_TRITON_URLS"):
        triton(urls)
    if folder := environment.get("REGRAFT_MODEL_REPOSITORY"):
        model_repository(folder, here=False)
    triton_token(environment)
    judge(environment)
    signing.check(environment)
    variables(environment)
    protocols(environment)
    remote_code(environment)
    for name in _MOST:
        most(name, environment)


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
    addresses = tuple(_address(url, urls) for url in listed)
    for address in addresses:
        if addresses.count(address) > 1:
            raise _wrong_triton(f"names {address} twice: {urls!r}")
    return addresses


def triton_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """Who has it may control Triton: REGRAFT_TRITON_TOKEN; None where it is not set or empty. Raises BadInput."""
    return _token(TRITON_TOKEN, environment, '="$(openssl rand -hex 32)", for Triton and the steps alike')


def judge(environment: Mapping[str, str] = os.environ) -> tuple[str, dict[str, str]] | None:
    """Where a judge is asked, REGRAFT_JUDGE_URL, and the header by which it knows who asks, of REGRAFT_JUDGE_KEY.

    None: no judge is asked. Raises BadInput.
    """
    key = _token(JUDGE_KEY, environment, "=KEY, as whoever runs the judge gave it")
    url = environment.get(JUDGE, "").strip()
    if not url:
        return None
    _server(JUDGE, url, "http://HOST:8000/v1")
    return url.rstrip("/"), {"Authorization": f"Bearer {key}"} if key else {}


def _token(name: str, environment: Mapping[str, str], mend: str) -> str | None:
    token = environment.get(name)
    if token and not re.fullmatch(r"[!-~]+", token):
        raise BadInput(
            "the token has a space, a line's end or another character in it that no header takes",
            where=name,
            next=f"export {name}{mend}",
        )
    return token or None


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
