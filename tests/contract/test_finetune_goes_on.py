"""finetune goes on from what was there: rows of earlier windows, and a chain of adapters that begins anew in time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from regraft import recipe
from regraft.errors import BadInput
from tests.worlds import RUN, Tiny
from tests.worlds.text_classification import rows

SECOND, THIRD, FOURTH = "2026-11-30T03-00", "2026-12-07T03-00", "2026-12-14T03-00"


def crown(tiny: Tiny, run: str, version: int) -> None:
    """Makes what a run trained champion, without the steps between."""
    about = {"model": tiny.result("finetune", run).identity, "run": run, "evaluation": "e" * 64}
    tiny.ledger.append(tiny.ledger.head(), kind="promote", version=version, reason="for a test", **about)


def declare(tiny: Tiny, more: str, **replaced: str) -> None:
    """Adds settings to the recipe's training, which is of one epoch and does not move."""
    text = tiny.recipe.read_text().replace("precision: fp32", f"precision: fp32, {more}", 1)
    for before, after in {"learning_rate: 1e-2": "learning_rate: 1e-12", **replaced}.items():
        assert before in text
        text = text.replace(before, after)
    tiny.recipe.write_text(text)


def inputs(tiny: Tiny, run: str, file: str, tmp_path: Path) -> set[str]:
    """Digests of the inputs that a file of a run has."""
    step, column = ("finetune", "input") if file == "train_digests.parquet" else ("validate", "digest")
    result = tiny.result(step, run)
    folder = tiny.store.fetch(f"{step}/{result.identity}", result, tmp_path / f"{run}-{file}", only=(file,))
    found: list[str] = pq.read_table(folder / file)[column].to_pylist()
    assert len(found) == len(set(found))
    return set(found)


def test_a_share_of_the_rows_comes_from_windows_of_earlier_champions(tiny: Tiny, tmp_path: Path) -> None:
    crown(tiny, RUN, 1)
    before = inputs(tiny, RUN, "train.parquet", tmp_path)
    tiny.put([*rows(40), *rows(160, seed=7)])
    declare(tiny, "replay: 0.25")
    tiny.through("validate", "finetune", run=SECOND)
    fresh, dev = (inputs(tiny, SECOND, f"{name}.parquet", tmp_path) for name in ("train", "dev"))
    trained = inputs(tiny, SECOND, "train_digests.parquet", tmp_path)
    older = trained - fresh
    assert fresh < trained
    assert older <= before - dev
    assert len(older) == round(len(fresh) / 3), "a quarter of all"
    assert tiny.result("finetune", SECOND).metrics["replayed"] == len(older)
    first = tiny.result("finetune", SECOND)
    assert first.inputs[f"replay.{RUN}"] == tiny.result("validate").outputs["train.parquet"].sha256
    tiny.through("finetune", run=SECOND)
    assert tiny.pointer("finetune", SECOND)["cached"]
    tiny.store.remove(f"finetune/{first.identity}")
    tiny.through("finetune", run=SECOND)
    assert tiny.result("finetune", SECOND).digest == first.digest


def test_a_window_whose_labels_were_others_is_not_mixed_in(tiny: Tiny) -> None:
    crown(tiny, RUN, 1)
    declare(tiny, "replay: 0.25", **{"labels: [negative, positive]": "labels: [positive, negative]"})
    tiny.through("validate", run=SECOND)
    code, said = tiny.step("finetune", run=SECOND)
    assert code == 20, said
    assert f"the window of run {RUN} was frozen with another data.labels" in said


def test_a_window_that_was_cleared_away_is_named_and_left_out(tiny: Tiny) -> None:
    crown(tiny, RUN, 1)
    tiny.put(rows(200, seed=7))
    declare(tiny, "replay: 0.25")
    tiny.through("validate", run=SECOND)
    tiny.store.remove(f"validate/{tiny.result('validate').identity}")
    code, said = tiny.step("finetune", run=SECOND)
    assert code == 0, said
    assert f"warning: the window of run {RUN} is not replayed" in said
    assert tiny.result("finetune", SECOND).metrics["replayed"] == 0


def test_after_so_many_trainings_one_on_the_other_the_next_begins_with_a_fresh_adapter(tiny: Tiny) -> None:
    crown(tiny, RUN, 1)
    declare(tiny, "warm_start: true, rebase_every: 2")
    chains = []
    for version, run in enumerate((SECOND, THIRD, FOURTH), start=2):
        tiny.put(rows(120, seed=version))
        tiny.through("validate", "finetune", run=run)
        chains.append(tiny.result("finetune", run).metrics["chain"])
        crown(tiny, run, version)
    assert chains == [[RUN], [], [THIRD]]
    assert tiny.result("finetune", THIRD).inputs["warm_start"] == "none"
    assert tiny.result("finetune", FOURTH).inputs["warm_start"] == tiny.result("finetune", THIRD).identity


def test_a_chain_needs_a_warm_start(tiny: Tiny) -> None:
    declare(tiny, "rebase_every: 2")
    with pytest.raises(BadInput, match="rebase_every needs warm_start: true"):
        recipe.load(tiny.recipe)
