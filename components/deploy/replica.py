"""One Triton replica, asked by its own address: what it serves, what it should load, what it answers.

A load request behind a load balancer reaches one replica only, so every replica is asked by itself. And a load of a
version that does not exist succeeds, so a load counts only when the replica's index says READY for that very version.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

from regraft import settings, tasks
from regraft.errors import BadInput, RegraftError, Temporary
from regraft.parts import Recipe

# Seconds that a connection, a load or an answer may take before the replica counts as gone.
CONNECT_SECONDS = 5.0
LOAD_SECONDS = 600.0
ANSWER_SECONDS = 60.0
LIVE = "/v2/health/live"


class NotServed(RegraftError):
    """The replica answered, and the answer is no: it cannot load or run this version. `what` holds its reason."""


class Unreachable(Temporary):
    """Nobody answers at this address."""


@contextmanager
def _client(address: str, *, seconds: float) -> Iterator[Any]:
    """A client of its own, closed afterwards: Triton waits for open connections when it stops."""
    import tritonclient.http
    from tritonclient.utils import InferenceServerException

    client = tritonclient.http.InferenceServerClient(
        address.removeprefix("http://").rstrip("/"), connection_timeout=CONNECT_SECONDS, network_timeout=seconds
    )
    try:
        yield client
    except InferenceServerException as error:
        raise NotServed(error.message(), where=address) from error
    except (OSError, EOFError) as error:
        raise _unreachable(address, error) from error
    finally:
        client.close()


def _unreachable(address: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"Triton cannot be reached: {error or type(error).__name__}",
        where=address,
        state="what it served before, it serves on",
        next="check REGRAFT_TRITON_URLS, or start it with: regraft up; then repeat the command",
    )


def _other(address: str, what: str) -> BadInput:
    return BadInput(
        what,
        where=f"{address}, of REGRAFT_TRITON_URLS",
        next=f"{settings.TRITON_EXAMPLE}  (the HTTP port of each replica)",
    )


def _control(
    address: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    token: str | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Any:
    """What a replica answers to a request that is not for a model: JSON, or None where it says nothing.

    Not by tritonclient: to import it takes as long as all else that a cached deploy does.

    Args:
        token: what shows Triton that this request may control it; that of the settings when left out.

    Raises:
        NotServed: it says no.
        Unreachable: nobody answers.
        BadInput: something else than Triton does.
    """
    said, status = _exchanged(address, path, body, token or settings.triton_token(), seconds)
    try:
        document = json.loads(said) if said else None
    except ValueError as error:
        if path == LIVE and status in (200, 404):  # later on it is a replica that is not well
            what = f"what answers there is not Triton; it says {said[:80].decode(errors='replace')!r}"
            raise _other(address, what) from error
        document = {"error": f"no answer of Triton: {said[:80].decode(errors='replace')}"}
    if status != 200 or (isinstance(document, dict) and "error" in document):
        reason = document.get("error") if isinstance(document, dict) else None
        raise NotServed(reason or f"it answered {status}", where=address)
    return document


def _exchanged(
    address: str, path: str, body: Mapping[str, Any] | None, token: str | None, seconds: float
) -> tuple[bytes, int]:
    """One request and its answer, with its status. Raises Unreachable, or BadInput where it is no HTTP."""
    host = address.removeprefix("http://").rstrip("/")
    try:
        with closing(http.client.HTTPConnection(host, timeout=CONNECT_SECONDS)) as connection:
            return _exchange(connection, path, body, token, seconds)
    except http.client.RemoteDisconnected as error:  # it went away before its answer
        raise _unreachable(address, error) from error
    except (http.client.BadStatusLine, http.client.LineTooLong) as error:
        raise _other(address, "what answers there does not speak HTTP; gRPC has port 8001, most often") from error
    except (OSError, EOFError, http.client.HTTPException, UnicodeError) as error:  # the last of names that cannot be
        raise _unreachable(address, error) from error


def _exchange(
    connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any] | None, token: str | None, seconds: float
) -> tuple[bytes, int]:
    """One request and its answer, with its status. It may take longer than to connect does."""
    connection.connect()
    connection.sock.settimeout(seconds)
    if body is None:
        connection.request("GET", path)
    else:
        connection.request("POST", path, json.dumps(body), {settings.TRITON_HEADER: token} if token else {})
    answer = connection.getresponse()
    return answer.read(), answer.status


def reach(address: str) -> None:
    """Raises Temporary where nothing answers, BadInput where it is not Triton.

    Triton listens once all models that it starts with are loaded.
    """
    with suppress(NotServed):
        _control(address, LIVE)


def index(address: str, name: str, *, token: str | None = None) -> dict[int, tuple[str, str]]:
    """State and reason of each version of a model that the replica knows, such as {2: ("READY", "")}.

    Args:
        token: that of a server of one's own; that of the settings when left out.
    """
    try:
        known = _control(address, "/v2/repository/index", {}, token=token) or []
    except NotServed as error:  # says nothing about any version
        raise Temporary(f"Triton is not well: {error.what}", where=address, next="repeat the command") from error
    return {
        int(row["version"]): (row.get("state", ""), row.get("reason", ""))
        for row in known
        if row["name"] == name and row.get("version")
    }


def ready(address: str, name: str) -> set[int]:
    """The versions that the replica serves now."""
    return {version for version, (state, _) in index(address, name).items() if state == "READY"}


def load(address: str, name: str, versions: Sequence[int]) -> None:
    """Makes the replica read config.pbtxt again and serve these versions, which it must name.

    Raises:
        NotServed: one of them is not READY afterwards.
    """
    _control(address, f"/v2/repository/models/{name}/load", {}, seconds=LOAD_SECONDS)
    known = index(address, name)
    for version in versions:
        state, reason = known.get(version, ("UNKNOWN", "no such version"))
        if state != "READY":
            raise NotServed(f"version {version} is {state}: {reason}", where=address)


def unload(address: str, name: str) -> None:
    """Makes the replica drop a model. Only for one that has never served."""
    _control(address, f"/v2/repository/models/{name}/unload", {}, seconds=LOAD_SECONDS)


Ask = Callable[[Any], tuple[Any, int]]
"""Sends rows; gives what is answered, as the task reads it, and the version that answered."""


@contextmanager
def calling(address: str, recipe: Recipe, version: int | None = None) -> Iterator[Ask]:
    """What asks a version, over one connection where it can; the newest that the replica serves when it is None."""
    if tasks.streams(recipe.task):
        of = "" if version is None else f"/versions/{version}"
        path = f"/v2/models/{recipe.name}{of}/generate_stream"
        yield lambda rows: _streamed(address, path, tasks.of(recipe.task), rows)
        return
    with _client(address, seconds=ANSWER_SECONDS) as client:
        task, chosen = tasks.of(recipe.task), "" if version is None else str(version)

        def ask(rows: Any) -> tuple[Any, int]:
            answer = client.infer(recipe.name, task.request(rows), model_version=chosen)
            return task.read(answer), int(answer.get_response()["model_version"])

        yield ask


def _streamed(address: str, path: str, task: Any, rows: Any) -> tuple[Any, int]:
    """What is answered to rows that are all asked at the same time, each by a request of its own."""
    with ThreadPoolExecutor(max(rows.num_rows, 1)) as asking:
        answers = [*asking.map(lambda body: _pieces(address, path, body), task.request(rows))]
    versions = {int(piece["model_version"]) for pieces in answers for piece in pieces}
    if len(versions) != 1:
        raise NotServed(f"answers wrongly: versions {sorted(versions)} answered the same rows", where=address)
    return task.read(answers), versions.pop()


def _pieces(address: str, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pieces of a streamed answer."""
    said, status = _exchanged(address, path, body, None, ANSWER_SECONDS)
    lines = [line.removeprefix(b"data:") for line in said.splitlines() if line.startswith((b"data:", b"{"))]
    try:
        pieces: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except ValueError as error:
        raise NotServed(f"no answer of Triton: {said[:80].decode(errors='replace')}", where=address) from error
    if status != 200 or not pieces or "error" in pieces[-1]:
        raise NotServed(pieces[-1]["error"] if pieces else f"it answered {status}", where=address)
    return pieces
