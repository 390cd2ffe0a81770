"""The recipes that a store's runs were made with: each written once, by the digest of its bytes, and never replaced.

The pointers of a run and the manifests of results name them, as `recipe_sha256`. Stores written before that have one
recipe a run, `runs/<run>/recipe.yaml`, which every step replaced.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from pydantic import BaseModel, Field

from regraft import pipeline, recipe
from regraft.errors import AlreadyExists, BadInput, NotFound
from regraft.manifest import Pointer
from regraft.parts import Recipe, Training
from regraft.store import Store


def keep(store: Store, content: bytes) -> str:
    """Puts a recipe's file into the store, where it is not there yet, and gives its digest."""
    digest = hashlib.sha256(content).hexdigest()
    with suppress(AlreadyExists):
        store.create(_key(digest), content)
    return digest


def by_digest(store: Store, digest: str) -> Recipe:
    """A recipe that was kept. Raises NotFound, and BadInput where it holds no longer."""
    return at(store, _key(digest))


def of_run(store: Store, run: str) -> Recipe:
    """The recipe of a run's last step that began. Raises NotFound, and BadInput where it holds no longer."""
    return at(store, key_of_run(store, run))


def of_model(store: Store, model: str, run: str) -> Recipe:
    """The recipe that a model was trained with. Raises NotFound, and BadInput where it holds no longer.

    Args:
        model: identity of its finetune.
        run: one that came to this model. Of several recipes that give the same model it took the last, which knows
            where the base model is now.
    """
    return _as_trained(store, _key_of_model(store, model, run), model)


def of_champion(store: Store, model: str, run: str) -> Recipe:
    """The recipe that a champion is served by: that of its run's deploy, else the one that it was trained with."""
    return _as_trained(store, key_of_champion(store, model, run), model)


def key_of_run(store: Store, run: str) -> str:
    """Where the recipe of a run's last step that began stands in the store."""
    for step in reversed(pipeline.STEPS):
        if (pointer := _pointer(store, run, step.name)) and pointer.recipe_sha256:
            return _key(pointer.recipe_sha256)
    return _before(run)


def key_of_champion(store: Store, model: str, run: str) -> str:
    """Where the recipe of `of_champion` stands in the store."""
    pointer = _pointer(store, run, "deploy")
    if pointer and pointer.recipe_sha256 and pointer.identity:
        deployed = store.manifest(f"deploy/{pointer.identity}")
        if deployed and deployed.inputs.get("model") == model:
            return _key(pointer.recipe_sha256)
    return _key_of_model(store, model, run)


def _key_of_model(store: Store, model: str, run: str) -> str:
    pointer = _pointer(store, run, "finetune")
    digest = pointer.recipe_sha256 if pointer and pointer.identity == model else None
    if digest is None:  # the run was repeated with another recipe since, and came to another model
        trained = store.manifest(f"finetune/{model}")
        digest = trained.recipe_sha256 if trained else None
    return _key(digest) if digest else _before(run)


def _key(digest: str) -> str:
    return f"recipes/{digest}.yaml"


def _before(run: str) -> str:
    """Where stores written before have the recipe of a run's last step."""
    return f"runs/{run}/recipe.yaml"


def _pointer(store: Store, run: str, step: str) -> Pointer | None:
    with suppress(NotFound):
        return store.pointer(run, step)
    return None


def at(store: Store, key: str) -> Recipe:
    """The recipe at a key. Raises NotFound, and BadInput where it holds no longer."""
    mend = "start a new run: regraft run RECIPE  (another version of regraft took what this one refuses)"
    content = store.read(key)
    if key.startswith("recipes/") and key != _key(hashlib.sha256(content).hexdigest()):
        raise BadInput(
            "the recipe does not have the SHA-256 that it is named by",
            where=store.where(key),
            next="restore the file from a backup or from the bucket's version history",
        )
    # It was within the ceilings of its time: none of today keeps a champion from being served.
    text = recipe.decode(content, where=store.where(key))
    return recipe.parse(text, where=store.where(key), next=mend, environment=None)


def _as_trained(store: Store, key: str, model: str) -> Recipe:
    """The recipe at a key. In a store written before, a repetition with another recipe has replaced it, so that what
    the model was trained with comes from its manifest."""
    declared = at(store, key)
    if key.startswith("recipes/"):
        return declared
    trained = store.manifest(f"finetune/{model}")
    part = trained.document.get("recipe", {}) if trained else {}
    if "data.labels" not in part or "training" not in part:
        return declared
    try:
        then = _Trained.model_validate(part)
    except ValueError as error:
        raise BadInput(
            f"damaged, does not say what was trained: {error}",
            where=store.where(f"finetune/{model}/manifest.json"),
            next="restore the file from a backup or from the bucket's version history",
        ) from error
    data = declared.data.model_copy(update={"labels": then.labels})
    return declared.model_copy(update={"data": data, "training": then.training})


class _Trained(BaseModel):
    """Of a recipe, what a finetune's identity holds of it."""

    labels: tuple[str, ...] = Field(alias="data.labels")
    training: Training
