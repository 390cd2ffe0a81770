"""Says where Triton differs from the ledger, and with --repair makes it follow. For doctor, rollback and promote.

Prints one JSON object: `champion` (version), `differences` (sentences), `repaired`, `refused`. Exit code 0: Triton
agrees, or does now; 10: it differs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from components.deploy import rollout
from regraft.errors import RegraftError
from regraft.recipe import Recipe
from regraft.step import follow_main
from regraft.store import Store

# How often the champion may change under our hands before we leave it to whoever changes it.
ATTEMPTS = 3


def follow(recipe: Recipe, store: Store, *, repair: bool) -> dict[str, object]:
    """Compares and, if asked, mends. See the module for the keys of the result."""
    from regraft.ledger import Ledger

    head = Ledger(store).head()
    if head is None:
        return {"champion": None, "differences": [], "repaired": False, "refused": None}
    place = rollout.target(recipe)
    found = rollout.differences(store, place, head)
    refused = None
    if found and repair:
        refused = _repair(recipe, store)
    repaired = bool(found) and repair and refused is None
    return {"champion": head.version, "differences": found, "repaired": repaired, "refused": refused}


def _repair(recipe: Recipe, store: Store) -> str | None:
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    from components.deploy.deployment import deploy

    before = rollout.champion(store).sequence

    def moved(error: BaseException) -> bool:
        nonlocal before
        earlier, before = before, rollout.champion(store).sequence
        return isinstance(error, RegraftError) and before != earlier

    for attempt in Retrying(retry=retry_if_exception(moved), stop=stop_after_attempt(ATTEMPTS), reraise=True):
        with (
            attempt,
            tempfile.TemporaryDirectory(prefix="regraft-deploy-", dir=os.environ.get("REGRAFT_SCRATCH")) as own,
        ):
            return deploy(
                recipe=recipe,
                store=store,
                entry=rollout.champion(store),
                scratch=Path(own),
                out=None,
                any_settings=True,
                progress=lambda done, text: print(f"progress {done:.3f} {text}", file=sys.stderr, flush=True),
            ).refused
    raise AssertionError("tenacity returns or raises")


def _answered(recipe: Recipe, store: Store, repair: bool) -> tuple[dict[str, object], bool]:
    result = follow(recipe, store, repair=repair)
    return result, not result["differences"] or bool(result["repaired"])


if __name__ == "__main__":
    follow_main("deploy", follow=_answered)
