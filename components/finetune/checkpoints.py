"""Checkpoints in the store, so that a training that dies on one machine goes on on another, to the same bytes."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from regraft import processor
from regraft.errors import BadInput
from regraft.step import Work, made_elsewhere


def _prefix(context: Work, name: str = "") -> str:
    return f"{context.prefix}/checkpoints/{name}".rstrip("/")


def restore(context: Work, folder: Path) -> Path | None:
    """Downloads the checkpoints of an earlier try of this very training.

    Returns:
        The newest checkpoint, to resume from; the best one lies beside it if it is another. None when there is none.
    """
    newest = None
    for name in filter(re.compile(r"\d{8}").fullmatch, context.store.names(_prefix(context))):
        manifest = context.store.manifest(_prefix(context, name))
        if manifest is None:
            continue
        newest = folder / f"checkpoint-{int(name)}"
        if not newest.exists():  # of several processes the first has downloaded it
            context.store.fetch(_prefix(context, name), manifest, newest)
            if other := made_elsewhere(manifest):
                print(f"finetune: resumes from a checkpoint; {other}", file=sys.stderr, flush=True)
    if newest is not None:
        _of_this_training(newest, folder, where=context.store.where(_prefix(context)))
    return newest


def _of_this_training(newest: Path, folder: Path, *, where: str) -> None:
    """Raises BadInput where a checkpoint says that the best one is elsewhere: the trainer would load it from there."""
    best = json.loads((newest / "trainer_state.json").read_bytes()).get("best_model_checkpoint")
    if best is not None and not re.fullmatch(rf"{re.escape(str(folder))}/checkpoint-\d+", best):
        raise BadInput(
            f"the best checkpoint is said to be {best[:200]!r}; expected {folder}/checkpoint-NUMBER",
            where=where,
            next=f"remove {where} and repeat the command: it trains from the beginning",
        )


def publish(context: Work, folder: Path) -> None:
    """Brings the store's checkpoints to those that the trainer keeps: the newest and the best."""
    kept = {f"{int(path.name.rpartition('-')[2]):08}": path for path in folder.glob("checkpoint-*")}
    stored = context.store.names(_prefix(context))
    for name, path in sorted(kept.items()):
        if name not in stored or context.store.manifest(_prefix(context, name)) is None:
            fields = {
                "step": context.step.name,
                "identity": context.identity,
                "document": {},
                "processor": processor.kind(),
                "created_at": datetime.now(UTC),
            }
            context.store.publish(_prefix(context, name), path, fields)
    for name in stored:
        if name not in kept:
            context.store.clear(_prefix(context, name))


class Checkpoints(TrainerCallback):
    """Publishes each checkpoint, and saves one more when the process is told to end."""

    def __init__(self, context: Work, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self.stopping = False
        context.on_terminate = self.stop

    def stop(self) -> None:
        """Asks the trainer to save a checkpoint after the step that it is in, and to end."""
        self.stopping = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if distributed.is_initialized():  # the signal reaches each process in its own time; they must stop as one
            flag = torch.tensor(int(self.stopping), device=args.device)
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
            self.stopping = bool(flag)
        if self.stopping:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if distributed.is_initialized():
            distributed.barrier()  # each process writes the state of its own random numbers
        if state.is_world_process_zero:
            publish(self._context, self._folder)
        return control
