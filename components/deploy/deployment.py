"""From the ledger's head to what Triton serves: fetch or reuse, build, roll out, and take back what fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from components.deploy import export, rollout
from components.deploy import golden as goldens
from components.deploy.replica import NotServed
from regraft import base_model, bases, pipeline, tasks
from regraft import step as steps
from regraft.digests import sha256
from regraft.errors import NotFound
from regraft.ledger import Entry, Ledger
from regraft.parts import Recipe


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What became of a deploy."""

    entry: Entry
    measured: dict[str, Any]
    refused: str | None


def settings(recipe: Recipe) -> str:
    """Digest of what a version directory is built by, besides the model."""
    step = pipeline.step("deploy")
    return sha256({"recipe": pipeline.recipe_part(recipe, step), "code": pipeline.code_digest(step, recipe.task)})


def deploy(
    *,
    recipe: Recipe,
    ledger: Ledger,
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
    waits, store = rollout.waits(ledger, entry), ledger.store
    trained = None
    with suppress(NotFound):  # a version that the repository still holds can be served without
        trained = steps.bound(store, entry)

    @cache
    def model() -> Any:
        progress(0.1, "load the champion")
        manifest = trained or steps.result_of(store, "finetune", entry.model)
        wanted = ("adapter", "tokenizer", base_model.RECORD)
        files = store.fetch(f"finetune/{entry.model}", manifest, scratch / "finetune", only=wanted)
        bases.as_trained(store, recipe, scratch / "base", files, manifest)
        return tasks.of(recipe.task).load(recipe, files, scratch / "base")

    def build(precision: str) -> Path:
        folder = scratch / f"built-{precision}"
        return export.build(recipe, entry, model(), folder, precision=precision, settings=settings(recipe))

    known = place.repository.serving(entry.version) or {}
    as_built = (
        known.get("model") == entry.model
        and (any_settings or known.get("settings") == settings(recipe))
        and rollout.built_by_us(store, place.repository, entry.version)
    )
    golden = goldens.of(store=store, recipe=recipe, entry=entry, model=model, folder=scratch / "holdout")
    try:
        measured = rollout.roll_out(
            recipe=recipe,
            ledger=ledger,
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
        rollback = None if waits else rollout.take_back(ledger, entry, served, reason)
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
        # links stay links, so that the store refuses one that leads out of the directory
        shutil.copytree(place.repository.directory(entry.version), out / "version", symlinks=True, ignore=compiled)
    return Deployed(entry=entry, measured=measured, refused=None)


def _verb(reason: str) -> str:
    starts = ("does not load", "answers wrongly", "is too slow")
    return reason if reason.startswith(starts) else f"failed: {reason}"
