"""Champions as base models: what pins one, what is made of it, what is refused. Models that were never trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from components import validate
from regraft import base_model, bases, contest, pipeline, recipe, snapshot, sources, tasks
from regraft.causal import untrained
from regraft.cli import champions as doctor
from regraft.cli.app import app
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.ledger import Ledger
from regraft.manifest import Manifest
from regraft.step import Context, Work
from regraft.store import Store
from tests import champions
from tests.worlds import RUN
from tests.worlds import chat as world
from tests.worlds import text_classification as classification

ROWS = pa.table(
    {
        "text": ['[{"role":"user","content":"the film was good"}]'],
        "answer": ['{"role":"assistant","content":"good story"}'],
    }
)


@pytest.fixture
def base(bases: Callable[[str], Path]) -> Path:
    return bases("chat")


class House:
    """Recipes of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def context(
        self, name: str, base: str | Path, *, task: str = "chat", step: str = "finetune", tokens: bool = False
    ) -> Context:
        """What a step of a recipe on a base model knows."""
        text = {"chat": world.RECIPE, "text-classification": classification.RECIPE}[task]
        text = text.format(data="data.jsonl", base=base, epochs=1, more="").replace("name: tiny", f"name: {name}")
        text = text.replace("contract: {", "contract: {tokens: {max: 100}, ") if tokens else text
        scratch = self.folder / "scratch" / sha256([name, str(base), step])
        scratch.mkdir(parents=True, exist_ok=True)
        store = Store(str(self.folder / "store"), name)
        made = Context(recipe=recipe.parse(text), store=store, run=RUN, step=pipeline.step(step), scratch=scratch)
        made.recipe_sha256 = snapshot.keep(store, text.encode())
        return made

    def champion(self, name: str, base: str | Path, *, seed: int = 1, task: str = "chat", seen: str = "") -> Manifest:
        """Makes a model of random adapter the recipe's champion."""
        context = self.context(name, base, task=task)
        declared, out = snapshot.by_digest(context.store, context.recipe_sha256), context.scratch / f"out-{seed}"
        inputs = bases.pinned(context)
        began = context.scratch / f"base-{seed}"
        if bases.CHAMPION in inputs:
            bases._merge(context.store, declared, began, inputs)
        adapted, tokenizer = tasks.of(task).for_training(declared, began)
        torch.manual_seed(seed)
        with torch.no_grad():
            for part, weight in adapted.named_parameters():
                if "lora" in part:
                    weight.normal_(std=0.1)
        adapted.save_pretrained(out / "adapter", safe_serialization=True)
        tokenizer.save_pretrained(out / "tokenizer")
        pq.write_table(pa.table({"input": pa.array([seen], pa.string())}), out / "train_digests.parquet")
        identity, store = sha256([name, seed, inputs]), context.store
        about: dict[str, Any] = {"created_at": "2026-11-24T00:00:00Z", "run": RUN}
        about |= {"document": {"inputs": inputs}, "recipe_sha256": context.recipe_sha256}
        made = store.publish(f"finetune/{identity}", out, {"step": "finetune", "identity": identity, **about})
        (out.parent / "verdict").mkdir(exist_ok=True)
        champions.publish(store, "evaluate", "e" * 64, out.parent / "verdict")
        ledger = Ledger(store)
        number = len(ledger.entries()) + 1
        ledger.append(
            ledger.head(), kind="promote", version=number, model=identity, run=RUN, evaluation="e" * 64, reason="test"
        )
        return made

    def model(self, name: str, base: str | Path, trained: Manifest) -> Any:
        """A finetune's model, as a contest loads it."""
        context = self.context(name, base, step="evaluate")
        return contest.Finetuned(context, context.recipe, trained).model


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def likelihood(model: Any) -> float:
    return float(tasks.of("chat").answers(model, ROWS)["log_likelihood"][0].as_py())


def refused(context: Context) -> str:
    """What is said of a base model that cannot be one: one sentence, at its key, and what next."""
    with pytest.raises(BadInput) as caught:
        bases.pinned(context)
    assert (caught.value.where, caught.value.exit) == ("base_model.source", 20)
    assert caught.value.next
    return caught.value.what


def test_the_base_is_what_the_champion_below_is_and_a_chain_of_them_too(house: House, base: Path) -> None:
    first = house.champion("first", base)
    second = house.champion("second", "champion://first", seed=2)
    third = house.champion("third", "champion://second", seed=3)
    alone = house.model("first", base, first)
    on_first = house.model("second", "champion://first", second)
    on_second = house.model("third", "champion://second", third)
    said = [likelihood(each) for each in (untrained(alone), alone, on_first, on_second)]
    assert len({round(each, 1) for each in said}) == 4, "each learned something"
    assert likelihood(untrained(on_first)) == pytest.approx(said[1], abs=1e-3)
    assert likelihood(untrained(on_second)) == pytest.approx(said[2], abs=1e-3)


def test_it_is_pinned_by_who_is_champion_and_a_model_keeps_its_base(house: House, base: Path) -> None:
    first = house.champion("first", base)
    above = house.context("second", "champion://first")
    then = bases.pinned(above)
    assert then == {"base_model": first.digest, "base_champion": f"first/{first.identity}"}
    trained = house.champion("second", "champion://first", seed=2)
    before = likelihood(house.model("second", "champion://first", trained))
    moved = house.champion("first", base, seed=9)
    assert bases.pinned(above)["base_champion"] == f"first/{moved.identity}"
    assert bases.digest(above, trained) == first.digest
    shutil.rmtree(house.folder / "scratch")
    assert likelihood(house.model("second", "champion://first", trained)) == pytest.approx(before, abs=1e-4)
    ledger = Ledger(Store(above.store.url, "first"))
    previous = ledger.previous()
    assert previous is not None
    ledger.again(ledger.head(), previous, kind="rollback", reason="test")
    assert bases.pinned(above) == then, "what was trained on it is a cache hit again"


def test_rows_that_any_model_below_was_trained_on_were_seen(house: House, base: Path) -> None:
    from regraft.rows import inputs

    texts = pa.array(["a", "b", "c"], pa.string())
    one, two, _ = inputs(texts)
    house.champion("first", base, seen=one)
    second = house.champion("second", "champion://first", seed=2, seen=two)
    context = house.context("second", "champion://first", step="evaluate")
    seen = contest.Finetuned(context, context.recipe, second).seen(pa.table({"text": texts}))
    assert seen.tolist() == [True, True, False]


def test_no_recipe_and_no_champion_are_one_sentence_each(house: House, base: Path) -> None:
    above = house.context("second", "champion://first")
    assert refused(above) == "no recipe called first has run in this store"
    Store(above.store.url, "first").create(f"runs/{RUN}/validate.json", b"{}")
    assert refused(above) == "recipe first has no champion"
    made = house.champion("first", base)
    ledger = Ledger(Store(above.store.url, "first"))
    head = ledger.head()
    assert head is not None
    ledger.again(head, head, kind="withdraw", reason="test")
    assert made
    assert refused(above) == "recipe first has no champion", "it was withdrawn"


def test_the_champion_of_another_family_is_no_base(house: House, base: Path, tiny_base: Path) -> None:
    house.champion("labels", tiny_base, task="text-classification")
    said = refused(house.context("second", "champion://labels"))
    assert said == "the champion of labels is a model of text-classification, which is no base model for chat"


def test_a_circle_is_named(house: House, base: Path) -> None:
    house.champion("first", base)
    house.champion("second", "champion://first", seed=2)
    house.champion("third", "champion://second", seed=3)
    said = refused(house.context("first", "champion://third"))
    assert said == "a circle: first on third on second on first; a model cannot be the base of itself"


def test_a_champion_whose_files_are_gone_or_are_others_is_no_base(house: House, base: Path) -> None:
    first = house.champion("first", base)
    second = house.champion("second", "champion://first", seed=2)
    store = Store(str(house.folder / "store"), "first")
    place = Path(store.path(f"finetune/{first.identity}"))
    manifest = (place / "manifest.json").read_text()
    name = "adapter/adapter_config.json"
    (place / "manifest.json").write_text(manifest.replace(first.outputs[name].sha256, "0" * 64))
    with pytest.raises(BadInput, match="is not what it was") as caught:
        house.model("second", "champion://first", second)
    assert caught.value.where == "base_model.source"
    (place / "manifest.json").write_text(manifest)
    (place / first.attempt / name).unlink()
    with pytest.raises(BadInput, match="files of the champion that is the base model are gone") as caught:
        house.model("second", "champion://first", second)
    assert caught.value.where == "base_model.source"
    shutil.rmtree(place)
    assert "are gone" in refused(house.context("second", "champion://first"))


def test_the_doctor_says_that_the_base_of_a_champion_is_gone(
    house: House, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house.champion("first", base)
    house.champion("second", "champion://first", seed=2)
    monkeypatch.setattr(doctor, "_servers", lambda *arguments, **named: [])
    store = Store(str(house.folder / "store"), "second")
    assert all(check["healthy"] for check in doctor._examine(store, repair=False))
    shutil.rmtree(Store(store.url, "first").path(f"finetune/{first.identity}"))
    (check,) = (check for check in doctor._examine(store, repair=False) if not check["healthy"])
    assert "base_model.source files of the champion that is the base model are gone" in check["says"]


def test_a_recipe_that_names_another_base_than_was_trained_on_loads_no_model(house: House, base: Path) -> None:
    house.champion("first", base)
    trained = house.champion("second", "champion://first", seed=2)
    house.champion("other", base, seed=4)
    with pytest.raises(BadInput, match="not the base model that was trained on"):
        house.model("second", "champion://other", trained)
    with pytest.raises(BadInput, match="not the base model that was trained on"):
        house.model("second", base, trained)
    with pytest.raises(BadInput, match=r"trained on no champion, and the recipe says champion://first"):
        house.model("plain", "champion://first", house.champion("plain", base, seed=5))


def test_a_forged_name_does_not_leave_the_store(house: House, base: Path) -> None:
    made = house.champion("first", base)
    forged = made.model_copy(
        update={"document": {"inputs": {"base_champion": f"../../x/{'0' * 64}", "base_model": "x"}}}
    )
    with pytest.raises(BadInput, match="leaves its folder"):
        bases.lineage(Store(str(house.folder / "store"), "first"), forged)
    forged = made.model_copy(update={"document": {"inputs": {"base_champion": "first/../../x", "base_model": "x"}}})
    with pytest.raises(BadInput, match="no place of a result"):
        bases.lineage(Store(str(house.folder / "store"), "first"), forged)


def test_tokens_are_counted_by_the_champions_tokenizer(house: House, base: Path) -> None:
    first = house.champion("first", base)
    context = house.context("second", "champion://first", step="validate", tokens=True)
    file = Path(context.store.url, "first", "finetune", first.identity, first.attempt, "tokenizer/tokenizer.json")
    digest = validate._tokenizer_digest(context)
    assert digest == sources.digest(str(file))
    known = {each.name: getattr(context, each.name) for each in fields(context) if each.init}
    work = Work(**known, inputs={"tokenizer": digest}, identity="a" * 64)
    assert validate._token_counts(work, ["the film was good", "the"])[1] == 1


def test_it_is_no_place_on_this_machine(house: House, base: Path) -> None:
    declared = house.context("second", "champion://first").recipe
    assert base_model.at_hand(declared) is None
    assert sources.pretrained("champion://first", None, Path("made")) == ("made", {})


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("champion://", "names no recipe"),
        ("champion://../other", "names no recipe"),
        ("champion://a/b", "names no recipe"),
        ("champion://Other", "names no recipe"),
        ("champion://other/", "names no recipe"),
        ("champion://tiny", "is this recipe's own; a model cannot be the base of itself"),
        ("champion://other, revision: main", "revision is only for hf:// models"),
    ],
)
def test_what_is_no_name_of_another_recipe_is_refused_with_its_line(source: str, complaint: str) -> None:
    text = world.RECIPE.format(data="data.jsonl", base=source, epochs=1, more="")
    with pytest.raises(BadInput, match="line 8: base_model") as caught:
        recipe.parse(text)
    assert complaint in str(caught.value)


def test_no_recipe_starts_itself() -> None:
    more = "schedule: {asset: champion://tiny}"
    text = world.RECIPE.format(data="data.jsonl", base="champion://other", epochs=1, more=more)
    with pytest.raises(BadInput, match=r"schedule.asset: each champion of this recipe would start it anew"):
        recipe.parse(text)
    assert recipe.parse(text.replace("asset: champion://tiny", "asset: champion://other")).schedule


def test_regraft_check_takes_a_champion_for_a_base_model(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(world.RECIPE.format(data="data.jsonl", base="champion://other", epochs=1, more=""))
    done = CliRunner().invoke(app, ["check", str(file)])
    assert (done.exit_code, "tiny, chat" in done.output) == (0, True), done.output


def test_a_task_whose_models_are_built_otherwise_may_name_no_champion() -> None:
    text = classification.RECIPE.format(data="data.jsonl", base="champion://other", epochs=1, more="")
    with pytest.raises(BadInput) as caught:
        recipe.parse(text)
    assert "base_model.source: champion://other is no base model for text-classification" in str(caught.value)
    assert "chat, preferences, pretraining, summarization" in str(caught.value)


@pytest.mark.parametrize("location", ["champion://other", "${REGRAFT_BASE_MODEL}"])
def test_a_champion_is_no_place_of_data_and_no_variable_leads_to_one(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_BASE_MODEL", "champion://other")
    monkeypatch.setenv("REGRAFT_PROTOCOLS", "file,champion")
    for look in (sources.look, lambda place: sources.base_model_digest(place, None)):
        with pytest.raises(BadInput, match="names a champion, and no place"):
            look(location)
