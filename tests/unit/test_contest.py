"""Challenger against champion: what is fetched, kept, left out and refused. On tiny models that a run has trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft import contest, pipeline, recipe, snapshot, tasks
from regraft.digests import sha256
from regraft.errors import BadInput
from regraft.ledger import Entry
from regraft.manifest import Manifest
from regraft.parts import Recipe
from regraft.step import Context
from tests import champions
from tests.unit.test_recipe import MINIMAL
from tests.worlds import RUN, Tiny


@pytest.fixture
def context(tiny: Tiny, tmp_path: Path) -> Context:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    step = pipeline.step("evaluate")
    return Context(recipe=recipe.load(tiny.recipe), store=tiny.store, run=RUN, step=step, scratch=scratch)


def champion_of(tiny: Tiny) -> Entry:
    return tiny.ledger.append(
        tiny.ledger.head(),
        kind="promote",
        version=1,
        model=tiny.result("finetune").identity,
        run=RUN,
        evaluation=tiny.result("evaluate").identity,
        reason="test",
    )


def holdout(tiny: Tiny, name: str, table: Any, folder: Path) -> Manifest:
    """A validate result with another holdout; its identity is the digest of that name."""
    name = sha256(name)
    folder.mkdir()
    pq.write_table(table, folder / "holdout.parquet")
    champions.publish(tiny.store, "validate", name, folder)
    manifest = tiny.store.manifest(f"validate/{name}")
    assert manifest is not None
    return manifest


def read(tiny: Tiny, name: str) -> Any:
    data = tiny.result("validate")
    return pq.read_table(tiny.store.path(f"validate/{data.identity}/{data.attempt}/{name}"))


def test_a_holdout_is_scored_once_and_decided_on_again_without_the_model(
    tiny: Tiny, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": tiny.result("finetune"), "opponent": champion_of(tiny), "data": tiny.result("validate")}

    def load(*_: Any) -> None:
        raise AssertionError("loaded a model whose answers are in the store")

    monkeypatch.setattr(tasks.of("text-classification"), "load", load)
    found = contest.decide(context, **asked)
    assert found.verdict.difference is not None
    assert found.verdict.difference.point == 0, "a model against itself"
    assert contest.decide(context, **asked).verdict == found.verdict


def test_the_same_answers_make_the_same_bytes(tiny: Tiny, context: Context) -> None:
    (name,) = tiny.store.names("scores")
    first = tiny.store.read(f"scores/{name}")
    tiny.store.remove(f"scores/{name}")
    contest.decide(context, model=tiny.result("finetune"), opponent=None, data=tiny.result("validate"))
    assert tiny.store.read(f"scores/{name}") == first


def test_the_champion_is_built_as_it_was_trained_even_if_its_run_was_repeated_with_another_recipe(
    tiny: Tiny, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    opponent, trained = champion_of(tiny), tiny.result("finetune")
    now = tiny.recipe.read_text().replace("max_length: 16", "max_length: 8")
    other = {"state": "done", "identity": "another model", "recipe_sha256": snapshot.keep(tiny.store, now.encode())}
    tiny.store.replace(f"runs/{RUN}/finetune.json", json.dumps(other).encode())
    for name in tiny.store.names("scores"):
        tiny.store.remove(f"scores/{name}")
    module, lengths = tasks.of("text-classification"), []
    load = module.load

    def watched(declared: Recipe, model: Path, folder: Path) -> Any:
        lengths.append(declared.training.max_length)
        return load(declared, model, folder)

    monkeypatch.setattr(module, "load", watched)
    contestant = contest._champion(context, opponent, trained)
    contestant.answers(pa.table({"text": ["a good film"]}), "x")
    assert lengths == [16]


def test_a_champions_base_model_is_where_the_last_recipe_that_gives_the_same_model_says(
    tiny: Tiny, context: Context
) -> None:
    opponent = champion_of(tiny)
    moved = tiny.recipe.read_text().replace(str(tiny.base), "/moved/base")
    pointer = {**tiny.pointer("finetune"), "recipe_sha256": snapshot.keep(tiny.store, moved.encode())}
    other = tiny.result("finetune").model_copy(update={"document": {"inputs": {"base_model": "another"}}})
    assert contest._champion(context, opponent, other).recipe.base_model.source == str(tiny.base)
    tiny.store.replace(f"runs/{RUN}/finetune.json", json.dumps(pointer).encode())
    assert contest._champion(context, opponent, other).recipe.base_model.source == "/moved/base"


def test_a_champion_of_the_challengers_base_model_finds_it_where_the_challengers_recipe_says(
    tiny: Tiny, context: Context
) -> None:
    opponent, challenger = champion_of(tiny), tiny.result("finetune")
    context.recipe = recipe.parse(tiny.recipe.read_text().replace(str(tiny.base), "/moved/base"))
    assert contest._champion(context, opponent, challenger).recipe.base_model.source == "/moved/base"


def test_a_base_model_that_changed_since_the_training_is_refused(tiny: Tiny, context: Context, tmp_path: Path) -> None:
    changed = champions.base(tmp_path / "changed")
    config = changed / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    context.recipe = recipe.parse(tiny.recipe.read_text().replace(str(tiny.base), str(changed)))
    for name in tiny.store.names("scores"):
        tiny.store.remove(f"scores/{name}")
    with pytest.raises(BadInput, match=r"it is not the base model that model .* was trained on"):
        contest.decide(context, model=tiny.result("finetune"), opponent=None, data=tiny.result("validate"))


def test_a_holdout_that_was_trained_on_holds(tiny: Tiny, context: Context, tmp_path: Path) -> None:
    seen = holdout(tiny, "seen", read(tiny, "train.parquet"), tmp_path / "seen")
    found = contest.decide(context, model=tiny.result("finetune"), opponent=champion_of(tiny), data=seen)
    assert found.verdict.verdict == "hold"
    assert found.verdict.rows.clean == 0
    assert found.verdict.rows.contaminated == found.verdict.rows.holdout > 0


def test_the_order_of_the_holdout_does_not_matter(tiny: Tiny, context: Context, tmp_path: Path) -> None:
    table = read(tiny, "holdout.parquet")
    turned = holdout(tiny, "turned", table.take(np.arange(table.num_rows)[::-1]), tmp_path / "turned")
    asked = {"model": tiny.result("finetune"), "opponent": None}
    there = contest.decide(context, **asked, data=tiny.result("validate")).verdict
    back = contest.decide(context, **asked, data=turned).verdict
    assert back.gates == there.gates
    assert back.challenger.intervals == there.challenger.intervals


def test_another_text_column_of_the_anchor_set_is_scored_anew(tiny: Tiny, context: Context, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.jsonl"
    anchor.write_text('{"text": "a good film", "title": "awful", "label": "positive"}\n' * 5)
    opponent = champion_of(tiny)
    kept = set()
    for column in ("text", "title"):
        declared = tiny.recipe.read_text().replace("text: text", f"text: {column}")
        gates = f"gates: {{min_rows: 20, forgetting: {{anchor: {anchor}}}, "
        context.recipe = recipe.parse(declared.replace("gates: {min_rows: 20, ", gates))
        model, data = tiny.result("finetune"), tiny.result("validate")
        contest.decide(context, model=model, opponent=opponent, data=data)
        kept.add(len(tiny.store.names("scores")))
    assert kept == {2, 3}, "one more file of scores for each"


def anchored(path: Path, content: str, *labels: str) -> Any:
    path.write_text(content)
    document = MINIMAL.replace("labels: [negative, positive]", f"labels: {list(labels)}")
    declared = recipe.parse(document + f"\ngates: {{forgetting: {{anchor: {path}}}}}\n")
    source = tasks.anchor(declared)
    assert source is not None
    rows = contest._read_anchor(declared, source).to_pydict()
    return rows["text"], rows["label"]


def test_an_anchor_set_is_read_as_data_is(tmp_path: Path) -> None:
    padded = anchored(tmp_path / "a.csv", "text,label\ngood,01\nbad, 02 \n", "01", "02")
    assert padded == (["good", "bad"], [0, 1])
    dates = '{"text": "2026-01-01T00:00:00", "label": 1}\n{"text": "2026-01-02", "label": 2}\n'
    assert anchored(tmp_path / "a.jsonl", dates, "1", "2") == (["2026-01-01T00:00:00", "2026-01-02"], [0, 1])
    assert anchored(tmp_path / "B.TSV", 'text\tlabel\n"good\tp\n', "p", "n") == (['"good'], [0])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", '{"text": "x", "label": "p"}\n{"text": null, "label": "p"}\n', "row 2 of a.jsonl: no text"),
        ("a.csv", "text,label\n  ,p\n", "row 1 of a.csv: no text"),
        ("a.csv", "text,label\nx,\n", "row 1 of a.csv: no label"),
        ("a.csv", "text,label\nx,q\n", "row 1 of a.csv: unknown label 'q'"),
        ("a.csv", 'text,label\ny,n\n"x,p\n', "row 2 of a.csv opens a quote and does not close it"),
        ("a.csv", "text,label\n", "no file has a row"),
        ("a.xlsx", "text,label\n", "the format .xlsx is not one of"),
    ],
)
def test_a_row_of_an_anchor_set_that_cannot_count_is_named(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    with pytest.raises(BadInput, match=complaint) as raised:
        anchored(tmp_path / name, content, "p", "n")
    assert str(tmp_path / name) in str(raised.value)
