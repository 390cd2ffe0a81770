"""A stand-in for the API of a Kubeflow Pipelines server (v2beta1), for what submitting needs; no server runs here.

It keeps what it is sent as JSON and answers in the shape of the real one; what it is asked beyond that is a 404. It
proves what our client sends, not that a real server takes it.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

CHILDREN = {"recurringruns": "recurring_run_id", "experiments": "experiment_id", "runs": "run_id"}


class Api:
    """The server's state: collections of JSON objects, and a log of requests."""

    def __init__(self) -> None:
        self.host = ""
        self.token: str | None = None
        self.login_page = False
        self.dies = False
        self.log: list[str] = []
        self.collections: dict[str, list[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    def answer(self, method: str, url: str, body: bytes, token: str | None) -> tuple[int, str]:
        """Status and body of the answer to a request."""
        parsed = urlparse(url)
        path = parsed.path.removeprefix("/apis/v2beta1/")
        query = {key: values[0] for key, values in parse_qs(parsed.query).items()}
        self.log.append(f"{method} {path}")
        if self.login_page:
            return 200, "<html>Sign in</html>"
        if self.token and token != f"Bearer {self.token}":
            return 401, json.dumps({"message": "who are you?"})
        found = self._found(method, path, query, body)
        return (
            (404, json.dumps({"message": f"the stand-in has no {path}"})) if found is None else (200, json.dumps(found))
        )

    def _found(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        name, *rest = path.split("/")
        if path == "healthz":
            return {"multi_user": False}
        if path == "pipelines/upload":
            return self._add("pipelines", "pipeline_id", {"display_name": query["name"]})
        if path == "pipelines/upload_version":
            version = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "package": body.decode()}
            return self._add("versions", "pipeline_version_id", version)
        if method == "POST" and name in CHILDREN:
            return self._add(name, CHILDREN[name], json.loads(body))
        if method == "GET" and rest[1:] == ["versions"]:
            return {"pipeline_versions": self._named("versions", query, pipeline_id=rest[0])}
        if method == "GET" and not rest:
            key = {"recurringruns": "recurringRuns"}.get(name, name)
            return {key: self._named(name, query)}
        if method == "DELETE" and name == "recurringruns":
            runs = self.collections[name]
            runs[:] = [run for run in runs if run["recurring_run_id"] != rest[0]]
            return {}
        return None

    def _add(self, collection: str, key: str, document: dict[str, Any]) -> dict[str, Any]:
        document[key] = f"{collection}-{next(self._numbers)}"
        self.collections.setdefault(collection, []).append(document)
        return document

    def _named(self, collection: str, query: dict[str, str], **equal: str) -> list[dict[str, Any]]:
        for predicate in json.loads(query.get("filter", '{"predicates": []}'))["predicates"]:
            assert predicate["operation"] in ("EQUALS", 1), predicate
            equal[predicate["key"]] = predicate["stringValue"]
        if "experiment_id" in query:
            equal["experiment_id"] = query["experiment_id"]
        found = self.collections.get(collection, [])
        return [document for document in found if all(document.get(key) == value for key, value in equal.items())]


@contextmanager
def serving() -> Iterator[Api]:
    """The stand-in on a free port of the loopback."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if api.dies and "healthz" not in self.path:
                self.close_connection = True
                return
            status, text = api.answer(self.command, self.path, body, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.host = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield api
        server.shutdown()
        thread.join()
