"""finetune interrupted at many places, in one process: what it puts out in the end is the same to the byte."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from components import finetune
from components.finetune import train, training_log
from regraft import pipeline, recipe, snapshot
from regraft.digests import sha256
from regraft.errors import Temporary
from regraft.step import Context, Work
from tests.worlds import RUN, Tiny


def context_of(tiny: Tiny, scratch: Path, *, identity: str) -> Work:
    """What the step would know in a try of its own; its identity is the digest of that word."""
    scratch.mkdir()
    declared, step = recipe.load(tiny.recipe), pipeline.step("finetune")
    known: dict[str, Any] = {"store": tiny.store, "run": RUN, "step": step, "scratch": scratch.absolute()}
    known["recipe_sha256"] = snapshot.keep(tiny.store, tiny.recipe.read_bytes())
    inputs = finetune.inputs(Context(recipe=declared, **known))
    return Work(recipe=declared, **known, inputs=inputs, identity=sha256(identity))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def dev_scores(folder: Path) -> list[dict[str, float]]:
    """What training.json holds: one entry for each evaluation."""
    return list(json.loads((folder / "training.json").read_text()))


def trained(tiny: Tiny, folder: Path, *, stop_after: int | None = None) -> tuple[Path, int]:
    """Trains to the end, told to stop after every so many steps.

    Returns:
        The folder of what was put out, and how many tries it took.
    """
    for number in range(100):
        context = context_of(tiny, folder.with_name(f"{folder.name}-{number}"), identity=folder.name)
        steps = 0

        def progress(done: float, text: str, context: Work = context) -> None:
            nonlocal steps
            steps += 1
            if steps == stop_after and context.on_terminate:
                context.on_terminate()

        context.progress = progress  # type: ignore[method-assign]
        try:
            with training_log.no_run() as log:
                train.train(context, log=log, home=context.scratch)
        except Temporary:
            assert not (context.out / "adapter").exists()
            continue
        return context.out, number + 1
    raise AssertionError("it never ended")


def without_dropout(tiny: Tiny, folder: Path) -> None:
    """Gives the world a base model whose training is free of chance, and a rate that small differences survive."""
    shutil.copytree(tiny.base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    text = tiny.recipe.read_text().replace(str(tiny.base), str(folder))
    tiny.recipe.write_text(text.replace("learning_rate: 1e-2", "learning_rate: 2e-3"))


@pytest.fixture
def world(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A world in which this process may train: it changes its folder and its number of threads."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return tiny


@pytest.mark.parametrize("stop_after", [2, 4])
def test_stopped_again_and_again_it_ends_with_the_same_bytes(world: Tiny, tmp_path: Path, stop_after: int) -> None:
    world.declare(epochs=1)
    undisturbed, tries = trained(world, tmp_path / "undisturbed")
    assert tries == 1
    disturbed, tries = trained(world, tmp_path / "disturbed", stop_after=stop_after)
    assert tries > 2
    assert digests(disturbed) == digests(undisturbed)


@pytest.mark.parametrize("stop_after", [3, 5])
def test_early_stopping_counts_across_interruptions(world: Tiny, tmp_path: Path, stop_after: int) -> None:
    """The model cannot get better than right, so it stops two evaluations after it is, wherever it was interrupted."""
    text = world.recipe.read_text().replace("evaluations: 4", "evaluations: 16")
    world.recipe.write_text(text)
    undisturbed, _ = trained(world, tmp_path / "undisturbed")
    assert len(dev_scores(undisturbed)) < 16, "it did not stop early, so this test shows nothing"
    disturbed, tries = trained(world, tmp_path / "disturbed", stop_after=stop_after)
    assert tries > 2
    assert digests(disturbed) == digests(undisturbed)


def test_a_training_that_dies_after_its_last_checkpoint_only_writes_its_result(world: Tiny, tmp_path: Path) -> None:
    world.declare(epochs=1)
    undisturbed, _ = trained(world, tmp_path / "same")
    again, tries = trained(world, tmp_path / "same-again", stop_after=None)
    assert tries == 1
    steps: list[str] = []
    context = context_of(world, tmp_path / "third", identity="same")  # its checkpoints are in the store
    context.progress = lambda done, text: steps.append(text)  # type: ignore[method-assign]
    with training_log.no_run() as log:
        train.train(context, log=log, home=context.scratch)
    assert not steps
    assert digests(context.out) == digests(undisturbed) == digests(again)


def test_accumulated_batches_count_by_their_mean(world: Tiny, tmp_path: Path) -> None:
    """Not by their sum, which would clip gradients that are not large, and show a loss that is none."""
    accumulated = world.recipe.read_text().replace("batch_size: 16", "batch_size: 4, gradient_accumulation: 4")
    world.recipe.write_text(accumulated)
    losses: list[float] = []
    log = training_log.Log(None, "")
    log.metrics = lambda values, step: losses.extend(v for k, v in values.items() if k == "loss")  # type: ignore[method-assign]
    context = context_of(world, tmp_path / "accumulated", identity="accumulated")
    train.train(context, log=log, home=context.scratch)
    assert losses[0] == pytest.approx(math.log(2), abs=0.1), "two labels, and nothing learned yet"


@pytest.mark.slow
def test_several_processes_stop_as_one_and_resume(world: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on CPU, as torchrun starts them on two GPUs, learn what one learns from the whole batches."""
    for key, value in {"OMP_NUM_THREADS": "1", **world.environment}.items():
        monkeypatch.setenv(key, value)
    without_dropout(world, tmp_path / "base")  # each process draws its own
    first = context_of(world, tmp_path / "first", identity="several")
    prefix = f"{first.prefix}/checkpoints"

    def stop_at_a_checkpoint() -> None:
        while not any(world.store.manifest(f"{prefix}/{name}") for name in world.store.names(prefix)):
            if ended.wait(0.02):
                return
        assert first.on_terminate
        first.on_terminate()

    ended = threading.Event()
    watcher = threading.Thread(target=stop_at_a_checkpoint)
    watcher.start()
    try:
        with pytest.raises(Temporary, match="stopped by a signal after step"):
            finetune.by_torchrun(first, 2)
    finally:
        ended.set()
        watcher.join()
    second = context_of(world, tmp_path / "second", identity="several")
    finetune.by_torchrun(second, 2)
    alone, _ = trained(world, tmp_path / "alone")
    assert set(digests(second.out)) == set(digests(alone))
    for several, one in zip(dev_scores(second.out), dev_scores(alone), strict=True):
        assert several == pytest.approx(one, abs=0.01)
