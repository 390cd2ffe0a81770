"""What a training will take is foreseen from two small steps, for any family, and compared with what there is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from components.finetune import estimate, train
from regraft import pipeline, recipe, tasks
from regraft.errors import BadInput
from tests import worlds

LANGUAGE, ENCODER = "summarization", "text-classification"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {task: worlds.of(task).base(tmp_path_factory.mktemp(task)) for task in (LANGUAGE, ENCODER)}


def begun(folder: Path, base: Path, task: str, **changed: str) -> Any:
    """What `estimate.of` takes: a step's context, a trainer, its lesson, and rows in their order."""
    text = worlds.of(task).RECIPE.format(data="nowhere", base=base, epochs=1, more="")
    for before, after in changed.items():
        assert before in text
        text = text.replace(before, after)
    declared, module, rows = recipe.parse(text), tasks.of(task), worlds.of(task).rows(90)
    columns = {key: pa.array([row[key] for row in rows]) for key in rows[0]}
    read = module.rows({**columns, "text": columns.get("text", columns.get("document"))}, declared.data)
    table = pa.table({"text": read.text, **read.target})
    model, tokenizer = module.for_training(declared, folder / "base")
    lesson = module.lesson(declared, tokenizer, table.slice(20), table.slice(0, 20))
    trainer = train.trainer_of(declared, model, lesson, folder=folder / "trainer")
    context = SimpleNamespace(recipe=declared, step=pipeline.step("finetune"))
    return context, trainer, lesson, train.order(lesson.lengths, training=declared.training)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    ("task", "changed"),
    [(ENCODER, {}), (LANGUAGE, {}), (LANGUAGE, {"precision: fp32": "precision: fp32, gradient_checkpointing: true"})],
)
def test_what_a_batch_holds_is_known_from_two_rows(
    tmp_path: Path, bases: dict[str, Path], task: str, changed: dict[str, str], learns: bool
) -> None:
    _, trainer, lesson, positions = begun(tmp_path, bases[task], task, **changed)
    lengths = [lesson.lengths[place] for place in positions]
    batch, rows = range(16), trainer.train_dataset
    longest = max(batch, key=lengths.__getitem__)
    foreseen = estimate._held(trainer, rows, batch, longest, learns=learns)
    came = estimate._tried(trainer, [rows[place] for place in batch], learns=learns)
    assert 0.9 * came < foreseen < 1.5 * came


def test_checkpointing_of_gradients_is_seen(tmp_path: Path, bases: dict[str, Path]) -> None:
    def held(**changed: str) -> int:
        _, trainer, _, _ = begun(tmp_path, bases[LANGUAGE], LANGUAGE, **changed)
        return estimate._tried(trainer, [trainer.train_dataset[place] for place in range(16)], learns=True)

    assert held(**{"precision: fp32": "precision: fp32, gradient_checkpointing: true"}) < 0.9 * held()


def test_nothing_remains_of_what_was_tried(tmp_path: Path, bases: dict[str, Path]) -> None:
    context, trainer, lesson, positions = begun(tmp_path, bases[ENCODER], ENCODER)
    before = {name: of.clone() for name, of in trainer.model.state_dict().items()}
    chance = torch.random.get_rng_state()
    foreseen = estimate.of(context, trainer, lesson, positions)
    assert torch.equal(chance, torch.random.get_rng_state())
    assert all(torch.equal(of, before[name]) for name, of in trainer.model.state_dict().items())
    assert all(of.grad is None for of in trainer.model.parameters())
    assert len(foreseen.tokens) == -(-70 // context.recipe.training.batch_size)
    assert foreseen.between(0, len(foreseen.tokens)) >= sum(lesson.lengths)


def test_a_training_that_needs_more_memory_than_it_may_have_is_refused(tmp_path: Path, bases: dict[str, Path]) -> None:
    more = {"finetune: {cpu: 1}": "finetune: {cpu: 1, memory: 64Mi}"}
    with pytest.raises(
        BadInput, match=r"about .* GiB of memory at its peak, and resources.finetune.memory is 0.062 GiB"
    ) as raised:
        estimate.of(*begun(tmp_path, bases[LANGUAGE], LANGUAGE, **more))
    assert raised.value.where == "resources.finetune.memory"
    assert "raise it to " in str(raised.value.next)
    assert "gradient_checkpointing: true" in str(raised.value.next)


def test_one_that_needs_nearly_all_is_warned_of(
    tmp_path: Path, bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    context, trainer, lesson, positions = begun(tmp_path, bases[ENCODER], ENCODER)
    needed = estimate.of(context, trainer, lesson, positions).memory
    assert "warning" not in capsys.readouterr().err
    text = worlds.of(ENCODER).RECIPE.format(data="nowhere", base=bases[ENCODER], epochs=1, more="")
    most = f"finetune: {{cpu: 1, memory: {round(needed / 0.92 / 2**20)}Mi}}"
    context.recipe = recipe.parse(text.replace("finetune: {cpu: 1}", most))
    estimate.of(context, trainer, lesson, positions)
    assert "warning: training will take about" in capsys.readouterr().err


def test_time_is_told_by_tokens_from_the_first_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """The first batch is the longest: at the pace of steps all would take twice as long."""
    foreseen = estimate.Estimate(tokens=[400, 500, 600, 700, 800, 900, 1000], memory=1, took=4.0)
    context: Any = SimpleNamespace(step=pipeline.step("finetune"))
    foreseen.tell(context, 0, 1)
    assert foreseen.seconds == 10
    assert "7 steps with 1,000 tokens will take about 0:00:10, evaluations aside" in capsys.readouterr().err
    resumed = estimate.Estimate(tokens=[400, 500, 600, 700], memory=1, took=1.0)
    context.step = SimpleNamespace(timeout_minutes=0)
    resumed.tell(context, 1, 2)
    assert resumed.seconds == 3
    assert "warning: the step is stopped after 0:00:00" in capsys.readouterr().err
