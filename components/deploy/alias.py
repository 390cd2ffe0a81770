"""MLflow's alias `champion` follows what deploy wrote into the ledger, by plain HTTP: MLflow is not installed here."""

from __future__ import annotations

import os
import sys
from base64 import b64encode

from regraft import settings
from regraft.errors import BadInput
from regraft.ledger import Ledger

SECONDS = 10.0
ROUNDS = 10
"""Each other writer can undo one round at most, by reading the ledger before and writing the alias after us."""


def follow(name: str, ledger: Ledger) -> None:
    """Sets the aliases of a registered model as the ledger says.

    A server that is away or refuses is only named: Triton serves all the same, and the doctor makes MLflow follow.
    """
    try:
        uri = settings.mlflow()
    except BadInput:  # the steps that use MLflow have said so
        return
    failed = None
    for _ in range(ROUNDS):
        head = ledger.head()
        failed = _set(uri, name, head.version if head else None, {entry.version for entry in ledger.entries()})
        if failed or ledger.head() == head:
            break
    if failed:
        print(f"MLflow's alias champion was not set: {failed}; next: regraft doctor --repair", file=sys.stderr)


def _set(uri: str, name: str, version: int | None, decided: set[int]) -> str | None:
    """Sets and takes away what differs; gives what went wrong.

    Args:
        decided: versions that are challengers no more.
    """
    import urllib3

    user, password = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    basic = b64encode(f"{user}:{password}".encode(errors="surrogateescape")).decode()  # in UTF-8, as MLflow's client
    headers = {"Authorization": f"Basic {basic}"} if user else {}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers = {"Authorization": f"Bearer {token}"}
    api = f"{uri}/api/2.0/mlflow/registered-models"
    with urllib3.PoolManager(headers=headers, timeout=SECONDS) as http:

        def ask(method: str, path: str, **fields: str) -> dict[str, object]:
            query = {"fields": fields} if method == "GET" else {"json": fields}
            answer = http.request(method, f"{api}/{path}", **query, retries=urllib3.Retry(2, backoff_factor=0.2))  # type: ignore[arg-type]
            if answer.status != 200:
                raise urllib3.exceptions.HTTPError(f"status {answer.status}")
            found: dict[str, object] = answer.json()
            return found

        try:
            model: dict[str, list[dict[str, str]]] = ask("GET", "get", name=name)["registered_model"]  # type: ignore[assignment]
            known = {a["alias"]: int(a["version"]) for a in model.get("aliases", [])}
            if version is not None and known.get("champion") != version:
                ask("POST", "alias", name=name, alias="champion", version=str(version))
            elif version is None and "champion" in known:
                ask("DELETE", "alias", name=name, alias="champion")
            if known.get("challenger") in decided:
                ask("DELETE", "alias", name=name, alias="challenger")
        except (urllib3.exceptions.HTTPError, KeyError, ValueError) as error:
            return str(error)
    return None
