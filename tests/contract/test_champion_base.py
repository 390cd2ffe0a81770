"""A model on the champion of another recipe, from data to a champion of its own: steps as processes, one store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest

from regraft.ledger import Entry
from regraft.manifest import Manifest
from regraft.store import Store
from tests.worlds import LATER, RUN, Tiny
from tests.worlds.chat import EPOCHS, rows

STEPS = ("validate", "finetune", "evaluate", "promote")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Pair(NamedTuple):
    """Two recipes of one store: `first`, and `second` on its champion."""

    first: Tiny
    second: Tiny


def pair(folder: Path, base: Path, server: str) -> Pair:
    """The worlds of both below a folder, in which there may be a store already."""
    made = []
    for name, source in (("first", str(base)), ("second", "champion://first")):
        tiny = Tiny(folder / name, Path(source), {"MLFLOW_TRACKING_URI": server}, "chat")
        text = tiny.recipe.read_text().replace(f"source: {Path(source)}}}", f"source: {source}}}")
        tiny.recipe.write_text(text.replace("name: tiny\n", f"name: {name}\n"))
        tiny.store = Store(str(folder / "store"), name)
        made.append(tiny)
    return Pair(*made)


def champion(world: Tiny, trained: Manifest, run: str) -> Entry:
    """Makes a model champion without a contest."""
    head = world.ledger.head()
    about = {"model": trained.identity, "run": run, "evaluation": "e" * 64, "reason": "test"}
    return world.ledger.append(head, kind="promote", version=head.version + 1 if head else 1, **about)


@pytest.fixture(scope="module")
def promoted(bases: Callable[[str], Path], mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both have a champion; the second's answers the opposite of the first's. Do not change it: see `both`."""
    made = pair(tmp_path_factory.mktemp("pair"), bases("chat"), mlflow_server)
    made.second.put(rows(400, wrong=1))
    made.first.through("validate", "finetune")
    champion(made.first, made.first.result("finetune"), RUN)
    made.second.through(*STEPS)
    made.second.served()
    return made


@pytest.fixture
def both(promoted: Pair, tmp_path: Path) -> Pair:
    """The same in a store of one's own."""
    shutil.copytree(Path(promoted.first.store.url), tmp_path / "store")
    made = pair(tmp_path, promoted.first.base, promoted.first.environment["MLFLOW_TRACKING_URI"])
    made.second.put(rows(400, wrong=1))
    return made


def pin(trained: Manifest) -> str:
    return f"{trained.recipe}/{trained.identity}"


def test_it_is_trained_on_that_champion_and_made_anew_it_is_the_same(both: Pair) -> None:
    below, trained = both.first.result("finetune"), both.second.result("finetune")
    assert trained.inputs["base_champion"] == pin(below)
    assert trained.inputs["base_model"] == below.digest
    assert both.second.result("evaluate").metrics["verdict"] == "promote"
    both.second.through(*STEPS)
    assert [both.second.pointer(step)["cached"] for step in STEPS] == [True] * 4
    shutil.rmtree(both.second.store.path(f"finetune/{trained.identity}"))
    both.second.through("finetune")
    assert not both.second.pointer("finetune")["cached"]
    assert both.second.result("finetune").digest == trained.digest


def test_mlflow_keeps_the_base_whole_and_says_whose_it_is(promoted: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    server = promoted.second.environment["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = mlflow.MlflowClient(server)
    source = client.get_model_version("second", "1").source
    logged = client.get_logged_model(source.removeprefix("models:/"))
    assert logged.tags["regraft.base_champion"] == pin(promoted.first.result("finetune"))
    mlflow.set_tracking_uri(server)
    asked = [{"messages": row["messages"][:1]} for row in rows(8, seed=5)]
    right = [row["messages"][1]["content"] for row in rows(8, seed=5, wrong=1)]
    answers = mlflow.pyfunc.load_model(source).predict(asked)
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == right


def test_a_new_champion_below_makes_a_new_model_and_an_old_one_is_judged_on_its_own_base(both: Pair) -> None:
    first, second = both
    old = second.result("finetune")
    first.recipe.write_text(first.recipe.read_text().replace(f"epochs: {EPOCHS}", "epochs: 1"))
    first.through("validate", "finetune", run=LATER)
    moved = first.result("finetune", LATER)
    champion(first, moved, LATER)

    second.put(rows(400, seed=3, wrong=1))  # other rows: no answer is kept in the store
    second.through("validate", "finetune", run=LATER)
    challenger = second.result("finetune", LATER)
    assert challenger.inputs["base_champion"] == pin(moved)
    code, said = second.step("evaluate", run=LATER)
    assert code in (0, 10), said
    judged = second.result("evaluate", LATER)
    assert judged.inputs["champion"] == old.identity
    assert judged.metrics["champion"]["exact"] > 0.9, "on another base it would answer otherwise"
