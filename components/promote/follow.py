"""Makes MLflow's aliases follow the ledger: `python -m components.promote.follow --recipe R --store S --repair`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from regraft import recipe, tracking
from regraft.errors import Exit, RegraftError
from regraft.ledger import Entry, Ledger
from regraft.store import Store


def differences(client: Any, ledger: Ledger, name: str) -> list[str]:
    """Where MLflow differs from the ledger, a sentence each."""
    entries = ledger.entries()
    aliases = _aliases(client, name)
    if aliases is None:
        return [f"MLflow has no registered model {name}"] if entries else []
    found = []
    head = entries[-1] if entries else None
    if aliases.get("champion") != (head.version if head else None):
        found.append(f"alias champion is {_named(aliases.get('champion'))}, the ledger says {_version(head)}")
    if aliases.get("challenger") in {entry.version for entry in entries}:
        found.append(f"alias challenger is on version {aliases['challenger']}, which the ledger has decided on already")
    return found


def aliases(client: Any, ledger: Ledger, name: str) -> None:
    """Sets the aliases as the ledger says, until ledger and aliases agree: another promoter may be at it as well."""
    for _ in range(100):
        entries = ledger.entries()
        head = entries[-1] if entries else None
        current = _aliases(client, name)
        if current is None:
            return
        if head and current.get("champion") != head.version:
            client.set_registered_model_alias(name, "champion", str(head.version))
        if head is None and "champion" in current:
            client.delete_registered_model_alias(name, "champion")
        if current.get("challenger") in {entry.version for entry in entries}:
            client.delete_registered_model_alias(name, "challenger")
        if ledger.head() == head and not differences(client, ledger, name):
            return


def _aliases(client: Any, name: str) -> dict[str, int] | None:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _named(version: int | None) -> str:
    return "not set" if version is None else f"on version {version}"


def _version(entry: Entry | None) -> str:
    return f"version {entry.version}" if entry else "there is no champion"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m components.promote.follow", description=__doc__)
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--store", required=True, help="fsspec URL of the store")
    parser.add_argument("--repair", action="store_true", help="mend what differs, instead of only naming it")
    arguments = parser.parse_args()
    try:
        name = recipe.load(arguments.recipe).name
        ledger = Ledger(Store(arguments.store, name))
        client = tracking.connect()
        found = differences(client, ledger, name)
        if found and arguments.repair:
            aliases(client, ledger, name)
        left = differences(client, ledger, name) if arguments.repair else found
    except RegraftError as error:
        print(f"promote: {error}", file=sys.stderr)
        return int(error.exit)
    print(json.dumps({"recipe": name, "mlflow": tracking.address(), "differences": found, "left": left}))
    return Exit.REFUSED if left else Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
