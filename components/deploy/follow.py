"""Says where Triton differs from the ledger, and with --repair makes it follow. For doctor, rollback and promote.

Prints one JSON object: `champion` (version), `differences` (sentences), `repaired`, `refused`. Exit code 0: Triton
agrees, or does now; 10: it differs. With REGRAFT_FIRST, an entry as JSON, a repair makes that the first champion, if it
serves.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.deploy import rollout
from regraft import settings
from regraft.errors import RegraftError
from regraft.parts import Recipe
from regraft.step import follow_main
from regraft.store import Store

if TYPE_CHECKING:
    from regraft.ledger import Entry, Ledger

# How often the champion may change under our hands before we leave it to whoever changes it.
ATTEMPTS = 3


def follow(recipe: Recipe, store: Store, *, repair: bool) -> dict[str, object]:
    """Compares and, if asked, mends. See the module for the keys of the result."""
    from regraft.ledger import Entry, Ledger

    place, ledger = rollout.target(recipe), Ledger(store)
    head = ledger.head()
    if head is None and repair and (first := os.environ.get("REGRAFT_FIRST")):
        return _first(recipe, ledger, Entry.model_validate_json(first))
    if head is None:
        differences = rollout.left_over(store, place)
        if differences and repair:
            rollout.clear(ledger, place)
        return {"champion": None, "differences": differences, "repaired": bool(differences) and repair, "refused": None}
    differences = rollout.differences(ledger, place, head)
    refused = None
    if differences and repair:
        refused = _repair(recipe, ledger)
    repaired = bool(differences) and repair and refused is None
    return {"champion": head.version, "differences": differences, "repaired": repaired, "refused": refused}


def _repair(recipe: Recipe, ledger: Ledger) -> str | None:
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    before = rollout.champion(ledger).sequence

    def moved(error: BaseException) -> bool:
        nonlocal before
        earlier, before = before, rollout.champion(ledger).sequence
        return isinstance(error, RegraftError) and before != earlier

    for attempt in Retrying(retry=retry_if_exception(moved), stop=stop_after_attempt(ATTEMPTS), reraise=True):
        with attempt:
            return _deployed(recipe, ledger, rollout.champion(ledger))
    raise AssertionError("tenacity returns or raises")


def _first(recipe: Recipe, ledger: Ledger, entry: Entry) -> dict[str, object]:
    """Rolls out what becomes the first champion by it; refused, there is none."""
    refused = _deployed(recipe, ledger, entry)
    if refused:
        return {"champion": None, "differences": [refused], "repaired": False, "refused": refused}
    return {"champion": entry.version, "differences": [], "repaired": True, "refused": None}


def _deployed(recipe: Recipe, ledger: Ledger, entry: Entry) -> str | None:
    """Rolls an entry out; gives why it was refused."""
    from components.deploy.deployment import deploy

    with tempfile.TemporaryDirectory(prefix="regraft-deploy-", dir=settings.scratch()) as own:
        return deploy(
            recipe=recipe,
            ledger=ledger,
            entry=entry,
            scratch=Path(own),
            out=None,
            any_settings=True,
            progress=lambda done, text: print(f"progress {done:.3f} {text}", file=sys.stderr, flush=True),
        ).refused


def _answered(recipe: Recipe, store: Store, repair: bool) -> tuple[dict[str, object], bool]:
    result = follow(recipe, store, repair=repair)
    return result, not result["differences"] or bool(result["repaired"])


if __name__ == "__main__":
    follow_main("deploy", follow=_answered)
