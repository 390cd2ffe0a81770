"""MLflow's alias `champion`, and the history on the model's page, follow what deploy wrote into the ledger.

By plain HTTP: MLflow is not installed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from regraft import settings, verdicts
from regraft.errors import BadInput
from regraft.ledger import Ledger

SECONDS = 10.0
ROUNDS = 10
"""Each other writer can undo one round at most, by reading the ledger before and writing the alias after us."""


def update(name: str, ledger: Ledger) -> None:
    """Sets the aliases of a registered model, and the history in its description, as the ledger says.

    A server that is away or refuses is only named: Triton serves all the same, and the doctor makes MLflow follow.
    """
    try:
        uri = settings.mlflow()
    except BadInput:  # the steps that use MLflow have said so
        return
    failed = None
    for _ in range(ROUNDS):
        head = ledger.head()
        entries = [entry.model_dump(mode="json") for entry in ledger.latest(verdicts.ENTRIES)]
        history = verdicts.history(name, entries)
        version = head.version if head else None
        failed = _set(uri, name, version, history, lambda number: ledger.version(number) is not None)
        if failed or ledger.head() == head:
            break
    if failed:
        print(f"MLflow's alias champion was not set: {failed}; next: regraft doctor --repair", file=sys.stderr)


def _set(uri: str, name: str, version: int | None, history: str, decided: Callable[[int], bool]) -> str | None:
    """Sets and takes away what differs; gives what went wrong.

    Args:
        history: stands in the description after people's own words.
        decided: says of a version whether it is a challenger no more.
    """
    import urllib3

    api = f"{uri}/api/2.0/mlflow/registered-models"
    with urllib3.PoolManager(headers=settings.mlflow_login(), timeout=SECONDS) as http:

        def ask(method: str, path: str, **fields: str) -> dict[str, Any]:
            query = {"fields": fields} if method == "GET" else {"json": fields}
            answer = http.request(method, f"{api}/{path}", **query, retries=urllib3.Retry(2, backoff_factor=0.2))
            if answer.status != 200:
                raise urllib3.exceptions.HTTPError(f"status {answer.status}")
            document: dict[str, Any] = answer.json()
            return document

        try:
            model: dict[str, Any] = ask("GET", "get", name=name)["registered_model"]
            known = {a["alias"]: int(a["version"]) for a in model.get("aliases", [])}
            if version is not None and known.get("champion") != version:
                ask("POST", "alias", name=name, alias="champion", version=str(version))
            elif version is None and "champion" in known:
                ask("DELETE", "alias", name=name, alias="champion")
            if "challenger" in known and decided(known["challenger"]):
                ask("DELETE", "alias", name=name, alias="challenger")
            if (before := model.get("description", "")) != (text := verdicts.beside(before, history)):
                ask("PATCH", "update", name=name, description=text)
        except (urllib3.exceptions.HTTPError, KeyError, ValueError) as error:
            return str(error)
    return None
