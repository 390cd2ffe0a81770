"""The base models of finetunes: what pins one, and its files where a load takes them from.

`champion://NAME` is the champion of another recipe in the same store: that one's base model with its adapter merged
into the weights, made in scratch wherever it is needed. It is pinned by the finetune that was champion there when the
training began, so what was trained on it keeps it, whoever is champion there by now.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regraft import base_model, locations, snapshot, sources, tasks
from regraft.errors import BadInput, NotFound, Temporary
from regraft.ledger import Ledger
from regraft.manifest import Manifest
from regraft.parts import Recipe
from regraft.step import Context, Work, bound, result_of
from regraft.store import Store

CHAMPION = "base_champion"
"""Of a finetune's inputs, where its base model is a champion: NAME/IDENTITY of that one's recipe and finetune. The
digest of that finetune is `base_model` there."""
TOKENIZER = "tokenizer/tokenizer.json"
SOURCE = "base_model.source"


def pinned(context: Context) -> dict[str, str]:
    """What pins the base model that a training would begin with now, as inputs of a finetune.

    Raises:
        BadInput: the recipe names a champion that there is not, or that cannot be its base model.
    """
    base = context.recipe.base_model
    if locations.champion(base.source) is None:
        return {"base_model": sources.base_model_digest(base.source, base.revision)}
    store, trained = _champion(context)
    return {"base_model": trained.digest, CHAMPION: f"{store.recipe}/{trained.identity}"}


def digest(context: Context, trained: Manifest) -> str:
    """What pins the base model of a finetune, as its files are now. Raises BadInput where they are gone."""
    base = context.recipe.base_model
    if locations.champion(base.source) is None:
        return sources.base_model_digest(base.source, base.revision)
    under = _under(context.store, trained.inputs)
    return under[1].digest if under else "none"


def tokenizer(context: Context) -> bytes:
    """The tokenizer.json of the champion that the recipe names. Raises BadInput."""
    store, trained = _champion(context)
    if TOKENIZER not in trained.outputs:
        raise BadInput(f"the champion of {store.recipe} has no tokenizer.json", where=SOURCE)
    with _whole():
        return store.output(trained, TOKENIZER)


def tokenizer_files(context: Context, folder: Path, *, digest: str) -> Path:
    """Brings the tokenizer of the champion that the recipe names, and gives the folder that it is in.

    Args:
        digest: what pinned the champion when this step began.

    Raises:
        Temporary: it is another by now.
    """
    store, trained = _champion(context)
    if trained.digest != digest:
        raise Temporary(f"{store.recipe} has another champion since this step began", next="repeat the command")
    with _whole():
        files = store.fetch(f"finetune/{trained.identity}", trained, folder, only=("tokenizer",))
    return files / "tokenizer"


def for_training(context: Work, folder: Path) -> dict[str, str]:
    """Brings the base model that a training begins with, as it was pinned.

    Args:
        folder: of the load that follows; see `sources.pretrained`.

    Returns:
        What `base_model.RECORD` is to keep.

    Raises:
        BadInput: it is another by now.
    """
    digest = context.inputs["base_model"]
    if CHAMPION in context.inputs:
        _merge(context.store, context.recipe, folder, context.inputs)
        return {context.inputs[CHAMPION]: digest}
    return base_model.compared(context.recipe.base_model, folder, digest=digest, by="this training began with")


def as_trained(store: Store, recipe: Recipe, folder: Path, files: Path, trained: Manifest) -> None:
    """Brings the base model of a finetune before its model is loaded over it, as it was when that was trained.

    Args:
        store: of the finetune.
        recipe: by which the model is loaded.
        folder: of that load.
        files: folder with the finetune's outputs.

    Raises:
        BadInput: it is another by now, or gone.
    """
    if CHAMPION in trained.inputs or locations.champion(recipe.base_model.source):
        _merge(store, recipe, folder, trained.inputs)
    else:
        base_model.as_trained(recipe, folder, files, model=trained.identity, inputs=trained.inputs)


def lineage(store: Store, trained: Manifest) -> list[tuple[Store, Manifest]]:
    """A finetune, the one that its base model was made from, that one's, and so on, each with its recipe's store.

    Raises:
        BadInput: one of them is gone, or is another by now.
    """
    found = [(store, trained)]
    while under := _under(found[-1][0], found[-1][1].inputs):
        found.append(under)
    return found


def _champion(context: Context) -> tuple[Store, Manifest]:
    """The finetune of the champion that the recipe names, and the store of that one's recipe.

    Raises:
        BadInput: there is none, its files are gone, or it cannot be a base model of this recipe's.
    """
    recipe, own = context.recipe, context.store.recipe
    name = str(locations.champion(recipe.base_model.source))
    store = Store(context.store.url, name)
    head = Ledger(store).head()
    if head is None:
        ran = bool(store.names("runs"))
        raise BadInput(
            f"recipe {name} has no champion" if ran else f"no recipe called {name} has run in this store",
            where=SOURCE,
            next=f"regraft history {name}" if ran else f"regraft run RECIPE, that of {name}; or mend the name",
        )
    with _whole():
        trained, declared = bound(store, head), snapshot.of_model(store, head.model, head.run)
    # A family merges its models by one function, and what that saves only that family loads.
    if getattr(tasks.of(declared.task), "merged", None) is not getattr(tasks.of(recipe.task), "merged", False):
        raise BadInput(
            f"the champion of {name} is a model of {declared.task}, which is no base model for {recipe.task}",
            where=SOURCE,
            next="name a recipe whose models are built alike, or a base model by its place",
        )
    if declared.base_model.remote_code:
        raise BadInput(
            f"the base model of {name} runs code of its own, which would be lost",
            where=SOURCE,
            next="name a recipe whose base model needs no code of its own",
        )
    names = [own, *(each.recipe for each, _ in lineage(store, trained))]
    if own in names[1:]:
        circle = " on ".join(names[: names.index(own, 1) + 1])
        raise BadInput(
            f"a circle: {circle}; a model cannot be the base of itself",
            where=SOURCE,
            next=f"name another base model in one of these recipes, or regraft rollback {name}",
        )
    return store, trained


def _under(store: Store, inputs: Mapping[str, str]) -> tuple[Store, Manifest] | None:
    """The finetune that a base model was made from, and its recipe's store; None where it is no champion.

    Args:
        store: of the finetune on that base model.
        inputs: those of that finetune.

    Raises:
        BadInput: it is gone, or is another by now.
    """
    if CHAMPION not in inputs:
        return None
    name, _, identity = inputs[CHAMPION].partition("/")
    under = Store(store.url, name)
    with _whole():
        trained = result_of(under, "finetune", identity)
    if trained.digest != inputs["base_model"]:
        raise _another(f"finetune {identity[:12]} of {name} is not what it was: its digest is another")
    return under, trained


def _merge(store: Store, recipe: Recipe, folder: Path, inputs: Mapping[str, str]) -> None:
    """Makes a base model of the champion that a finetune's inputs name. Raises BadInput.

    Args:
        store: of that finetune.
        recipe: by which its model is loaded: what the inputs name has to be its base model.
    """
    named, under = recipe.base_model.source, _under(store, inputs)
    if under is None or locations.champion(named) != under[0].recipe:
        raise _another(f"the model was trained on {inputs.get(CHAMPION, 'no champion')}, and the recipe says {named}")
    other, trained = under
    with _whole(), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        declared = snapshot.of_model(other, trained.identity, trained.run or "")
        parts = ("adapter", "tokenizer", base_model.RECORD)
        files = other.fetch(f"finetune/{trained.identity}", trained, Path(scratch) / "finetune", only=parts)
        as_trained(other, declared, Path(scratch) / "base", files, trained)
        tasks.of(recipe.task).merged(declared, files, Path(scratch) / "base", folder)


@contextmanager
def _whole() -> Iterator[None]:
    """Says of what is missing in the store that a base model needs it."""
    try:
        yield
    except NotFound as error:
        raise BadInput(
            f"files of the champion that is the base model are gone: {error.where}",
            where=SOURCE,
            state="the champion stays",
            next="restore them from a backup or from the bucket's version history; regraft doctor says which",
        ) from error


def _another(what: str) -> BadInput:
    return BadInput(
        f"it is not the base model that was trained on: {what}",
        where=SOURCE,
        state="the champion stays",
        next="name the base model that it was trained on, or start a new run: regraft run RECIPE",
    )
