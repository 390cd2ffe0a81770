"""What a training will take, before it begins: memory at its peak; and time, at the pace of its first steps.

Memory is counted, not guessed: a step on the longest row alone and one on two of it are tried, and what their
operations hold at once grows evenly with rows. So no formula has to know layers, checkpointing of gradients or kinds of
adapters. Nothing of these steps remains: gradients are dropped, and random numbers are where they were.
"""

from __future__ import annotations

import itertools
import math
import resource
import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import Trainer

from regraft import pipeline
from regraft.errors import BadInput
from regraft.exchange import Lesson
from regraft.step import Work

LOGIT = 16
"""Bytes that a loss holds at once of a logit: itself, its logarithm, and the gradients of both."""
STATES = 2
"""Numbers that AdamW keeps of each number that is trained."""
NEAR = 0.85
"""Share of the memory there is from which on a warning says so."""
PACE = 5
"""Steps from whose pace the time of all is told."""


@dataclass
class Estimate:
    """What was foreseen of a training, and what it took.

    Attributes:
        tokens: of all rows up to the end of each step, with what fills them up: a step takes as long as it has tokens.
        memory: bytes at once that were foreseen: of the GPU, where there is one, or else of the process.
        seconds, took: of the steps of this process, foreseen and measured; evaluations come on top of them.
    """

    tokens: Sequence[int]
    memory: int
    seconds: float | None = None
    took: float = 0.0

    def between(self, first: int, last: int) -> int:
        """Tokens of the steps after one and up to another."""
        before, until = (self.tokens[min(step, len(self.tokens)) - 1] if step else 0 for step in (first, last))
        return until - before

    def tell(self, context: Work, first: int, step: int) -> None:
        """Says how long all steps will take, at the pace of those that were taken.

        Args:
            first: steps that were there before this process.
            step: the last one that was taken.
        """
        last = len(self.tokens)
        total = self.between(first, last)
        self.seconds = self.took * total / self.between(first, step)
        said = f"{last - first:,} steps with {total:,} tokens will take about {_time(self.seconds)}, evaluations aside"
        if self.seconds > context.step.timeout_minutes * 60:
            said += f"; warning: the step is stopped after {_time(context.step.timeout_minutes * 60)}"
        print(f"finetune: {said}", file=sys.stderr, flush=True)

    def facts(self) -> dict[str, float]:
        """What was foreseen beside what came, by name; of a training of a few steps no time was foreseen."""
        found = {
            "memory_estimated_bytes": self.memory,
            "memory_peak_bytes": _peak(),
            "steps_estimated_seconds": self.seconds,
            "steps_seconds": self.took,
        }
        return {name: round(value, 3) for name, value in found.items() if value is not None}


def of(context: Work, trainer: Trainer, lesson: Lesson, positions: Sequence[int]) -> Estimate:
    """Foresees a training.

    Args:
        positions: of rows of the lesson, in the order they are trained on.

    Raises:
        BadInput: there is less memory than it will take.
    """
    args, model = trainer.args, _model(trainer)
    lengths, size = [lesson.lengths[place] for place in positions], args.per_device_train_batch_size
    batches = [range(start, min(start + size, len(lengths))) for start in range(0, len(lengths), size)]
    tokens = [len(batch) * max(lengths[place] for place in batch) for batch in batches]
    widest = batches[max(range(len(batches)), key=tokens.__getitem__)]
    held = _held(trainer, trainer.train_dataset, widest, max(widest, key=lengths.__getitem__), learns=True)
    dev: Any = trainer.eval_dataset
    if len(dev):
        of_dev = [trainer.data_collator([dev[place]])["input_ids"].shape[-1] for place in range(len(dev))]
        longest = max(range(len(dev)), key=of_dev.__getitem__)
        start = longest - longest % args.per_device_eval_batch_size
        among = range(start, min(start + args.per_device_eval_batch_size, len(dev)))
        held = max(held, _held(trainer, dev, among, longest, learns=False))
    # Asked now: weights are read when they are first used, and what libraries keep for themselves is there by now too.
    there = torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    trained = sum(of.numel() * of.element_size() for of in model.parameters() if of.requires_grad)
    memory = max(_peak(), there + STATES * trained + held)
    if trainer.is_world_process_zero():
        _check(context, memory)
    at_once = args.gradient_accumulation_steps * args.world_size
    steps = [sum(tokens[start : start + at_once]) for start in range(0, len(tokens), at_once)]
    return Estimate(tokens=list(itertools.accumulate(steps)), memory=memory)


def _peak() -> int:
    """Bytes at most until now: of the GPU, where there is one, or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _held(trainer: Trainer, rows: Any, batch: range, longest: int, *, learns: bool) -> int:
    """Bytes that a batch will hold at once beside the model.

    Args:
        rows: the dataset.
        batch: positions in it; `longest` is that of the longest row.
        learns: whether it is trained on, or scored.
    """
    one, two = (_tried(trainer, [rows[longest] for _ in range(count)], learns=learns) for count in (1, 2))
    held = one + (len(batch) - 1) * (two - one)
    # The head is computed where any row of a batch has something to learn: in more places than one row has.
    whole, alone = (trainer.data_collator([rows[place] for place in of]) for of in (batch, [longest]))
    if "logits_to_keep" in whole:
        heads = [len(each["input_ids"]) * len(each["logits_to_keep"]) for each in (whole, alone)]
        more = max(heads[0] - heads[1] * len(batch), 0)
        held += LOGIT * _model(trainer).config.get_text_config().vocab_size * more
    return held


def _tried(trainer: Trainer, items: list[Any], *, learns: bool) -> int:
    """Bytes that operations on a batch hold at once."""
    model, device = _model(trainer), trainer.args.device
    inputs = tree_map_only(torch.Tensor, lambda part: part.to(device), dict(trainer.data_collator(items)))
    held = _Held([*model.parameters(), *model.buffers()])
    bf16 = torch.autocast(device.type, dtype=torch.bfloat16, enabled=trainer.args.bf16)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), held, bf16:
        if learns:
            model.train()
            loss: Any = trainer.compute_loss(model, inputs)
            loss.backward()
        else:
            made: Any = trainer.prediction_step(model, inputs, prediction_loss_only=False)
            _, logits, labels = made
            if trainer.preprocess_logits_for_metrics is not None:
                trainer.preprocess_logits_for_metrics(logits, labels)
    model.zero_grad(set_to_none=True)
    return held.most


def _model(trainer: Trainer) -> Any:
    """The trainer's model, which transformers types as one that may be none."""
    return trainer.model


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of what operations make while it is entered; `most` at once."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        """Args: before: what was there, which counts nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: dict[int, Any] = {id(kept): kept for kept in (of.untyped_storage() for of in before)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(torch.Tensor, self._made, func(*args, **(kwargs or {})))

    def _made(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known:

            def freed(_: Any) -> None:
                self._now -= size
                del self._known[key]

            self._known[key] = weakref.ref(storage, freed)
            self._now += size
            self.most = max(self.most, self._now)
        return tensor


def _check(context: Work, memory: int) -> None:
    """Compares the memory that a training will take with what there is. Raises BadInput."""
    wanted = pipeline.resources(context.recipe, context.step).memory
    if torch.cuda.is_available():
        most, whose = torch.cuda.mem_get_info()[1], "the GPU has"
    else:
        unit = {"Mi": 2**20, "Gi": 2**30}[wanted[-2:]]
        most, whose = min(
            (int(wanted[:-2]) * unit, f"resources.{context.step.name}.memory is"),
            (psutil.virtual_memory().total, "this machine has"),
        )
    training = context.recipe.training
    said = f"training will take about {_gib(memory)} of memory at its peak, and {whose} {_gib(most)}"
    instead = "training.batch_size (and raise gradient_accumulation by as much) or training.max_length"
    if getattr(training, "gradient_checkpointing", None) is False:
        instead += ", or set training.gradient_checkpointing: true"
    if memory > most:
        more = f"raise it to {math.ceil(memory / NEAR / 2**30)}Gi, or " if whose.startswith("resources") else ""
        where = f"resources.{context.step.name}.memory" if more else "training.batch_size"
        raise BadInput(said, where=where, next=f"{more}lower {instead}")
    if memory > NEAR * most:
        print(f"finetune: warning: {said}; if it is killed, lower {instead}", file=sys.stderr, flush=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
