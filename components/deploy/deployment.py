"""From the ledger's head to what Triton serves: fetch or reuse, build, roll out, and take back what fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from components.deploy import export, rollout
from components.deploy import golden as goldens
from components.deploy.replica import NotServed
from regraft import pipeline, tasks
from regraft import step as steps
from regraft.ledger import Entry
from regraft.recipe import Recipe
from regraft.store import Store, sha256


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What became of a deploy."""

    entry: Entry
    measured: dict[str, Any]
    refused: str | None


def settings(recipe: Recipe) -> str:
    """Digest of what a version directory is built by, besides the model."""
    step = pipeline.step("deploy")
    return sha256({"recipe": pipeline.recipe_part(recipe, step), "code": pipeline.code_digest(step)})


def deploy(
    *,
    recipe: Recipe,
    store: Store,
    entry: Entry,
    scratch: Path,
    out: Path | None,
    any_settings: bool,
    progress: Callable[[float, str], None],
) -> Deployed:
    """Makes Triton serve a champion, or puts the one before it back and says why.

    Args:
        entry: the ledger's head, or what becomes it by serving (`rollout.due`).
        out: where the files of the version directory are left for the store; None: nowhere.
        any_settings: a directory of this model that the repository holds is good, whatever recipe or code built it;
            so a rollback takes no longer than a load.
    """
    place = rollout.target(recipe)
    waits = rollout.waits(store, entry)

    @cache
    def classifier() -> Any:
        progress(0.1, "load the champion")
        manifest = steps.result_of(store, "finetune", entry.model)
        files = store.fetch(f"finetune/{entry.model}", manifest, scratch / "finetune", only=("adapter", "tokenizer"))
        return tasks.of(recipe.task).load(recipe, files, scratch / "base")

    def build(precision: str) -> Path:
        folder = scratch / f"built-{precision}"
        return export.build(recipe, entry, classifier(), folder, precision=precision, settings=settings(recipe))

    known = place.repository.serving(entry.version) or {}
    as_built = known.get("model") == entry.model and (any_settings or known.get("settings") == settings(recipe))
    golden = goldens.of(store=store, recipe=recipe, entry=entry, classifier=classifier, folder=scratch / "holdout")
    try:
        measured = rollout.roll_out(
            recipe=recipe,
            store=store,
            place=place,
            entry=entry,
            build=build,
            held=known["precision"] if as_built else None,
            golden=golden,
            scratch=scratch,
            progress=progress,
        )
    except NotServed as error:
        reason = " ".join(error.what.split())[:500]
        served = place.repository.served()
        rollback = None if waits else rollout.take_back(store, entry, served, reason)
        if waits:
            before = f"version {served[-1]} never stopped serving" if served else "nothing is served"
            state = f"it did not become champion, and {before}; repeat the run when it is mended: it is tried again"
        elif rollback and rollback.kind == "withdraw":
            state = "it was the first, so it is withdrawn: there is no champion and nothing is served"
        elif rollback:
            state = f"version {rollback.version} never stopped serving and is champion again"
        elif served:
            state = f"version {entry.version} serves on as it was built before"
        else:
            state = f"nothing is served, and the ledger still names it: regraft rollback {recipe.name} goes back"
        return Deployed(entry=entry, measured={}, refused=f"version {entry.version} {_verb(reason)}; {state}")
    if out is not None:
        compiled = shutil.ignore_patterns("__pycache__")  # Triton's Python backend leaves it where it serves from
        shutil.copytree(place.repository.directory(entry.version), out / "version", ignore=compiled)
    return Deployed(entry=entry, measured=measured, refused=None)


def _verb(reason: str) -> str:
    starts = ("does not load", "answers wrongly", "is too slow")
    return reason if reason.startswith(starts) else f"failed: {reason}"
