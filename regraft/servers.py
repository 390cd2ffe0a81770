"""What MLflow and Triton say when they are asked by plain HTTP: for whoever has no client of them, and only looks."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from regraft import pages, settings

HEALTH = {"mlflow": "/health", "triton": "/v2/health/ready", "openai": "/health"}
OPENAI = "REGRAFT_OPENAI_URL"
"""Says where OpenAI's API stands before Triton, for people: no step asks it."""
NO_ANSWER = (OSError, ValueError, http.client.HTTPException)
"""What urllib raises where nobody is there, or somebody who does not speak HTTP, such as a gRPC server."""


def ask(
    url: str, *, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, timeout: float = 10
) -> Any:
    """The JSON that a server answers; None where it does not answer or knows no such thing."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=sent)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return json.loads(answer.read() or b"{}")
    except NO_ANSWER:
        return None


def ready(name: str, url: str) -> bool:
    """Whether a server, one of HEALTH, says that it is ready."""
    with suppress(*NO_ANSWER), urllib.request.urlopen(url + HEALTH[name], timeout=5):  # noqa: S310
        return True
    return False


def training_run(mlflow: str, recipe: str, identity: str | None) -> str:
    """The page of a finetune's run in MLflow; that of all runs, or of all experiments, where there is none.

    Args:
        mlflow: URL of the server.
    """
    api, login = f"{mlflow}/api/2.0/mlflow", settings.mlflow_login()
    by_name = ask(f"{api}/experiments/get-by-name?experiment_name={quote(recipe)}", headers=login)
    if not by_name:
        return f"{mlflow}/#/experiments"
    experiment_id = by_name["experiment"]["experiment_id"]
    answer = ask(f"{api}/runs/search", body=pages.search(experiment_id, identity), headers=login) if identity else None
    runs = (answer or {}).get("runs") or []
    page = pages.run_page(experiment_id, runs[0]["info"]["run_id"]) if runs else pages.runs_page(experiment_id)
    return f"{mlflow}/{page}"


def versions(triton: str, name: str, token: str | None) -> list[dict[str, Any]]:
    """The versions of a model that a Triton server has, newest first, each with its state.

    Args:
        triton: host:port of its HTTP endpoint.
        token: that of who may control it.
    """
    headers = {settings.TRITON_HEADER: token} if token else {}
    index = ask(f"http://{triton}/v2/repository/index", body={}, headers=headers) or []
    entries = [entry for entry in index if entry.get("name") == name and entry.get("version")]
    newest = sorted(entries, key=lambda entry: -int(entry["version"]))
    return [
        {"version": int(e["version"]), "state": e.get("state", "UNKNOWN"), "reason": e.get("reason")} for e in newest
    ]


def infer(triton: str, name: str, inputs: list[dict[str, Any]]) -> tuple[int, dict[str, list[Any]]] | None:
    """The version that answered, and its outputs by their names; None where there is no answer.

    Args:
        triton: host:port of its HTTP endpoint.
        inputs: as in Triton's JSON.
    """
    answer = ask(f"http://{triton}/v2/models/{name}/infer", body={"inputs": inputs})
    if not answer:
        return None
    return int(answer["model_version"]), {output["name"]: output["data"] for output in answer["outputs"]}


def generate(triton: str, name: str, inputs: Mapping[str, Any]) -> tuple[int, dict[str, list[Any]]] | None:
    """The same of a model that answers piece by piece, whose answer is given whole.

    Args:
        triton: host:port of its HTTP endpoint.
        inputs: values by the names of inputs.
    """
    answer = ask(f"http://{triton}/v2/models/{name}/generate", body=inputs, timeout=60)
    if not answer:
        return None
    return int(answer["model_version"]), {output: [value] for output, value in answer.items()}
