"""The training: transformers.Trainer over one long, fixed order of rows, so that a resumed run is the same run."""

from __future__ import annotations

import json
import math
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.metrics  # noqa: F401  before MLflow's thread of system metrics runs: its first import can deadlock there
import torch
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from components.finetune import card
from components.finetune.checkpoints import Checkpoints, restore
from components.finetune.tracking import Log
from regraft import tasks
from regraft.errors import BadInput, Temporary
from regraft.parts import Training
from regraft.recipe import Recipe
from regraft.step import Context, Outcome, result_of

METRIC = "f1_macro"
"""What the best checkpoint is chosen by, on dev."""


def order(lengths: list[int], *, training: Training) -> list[int]:
    """Rows in the order they are trained on, all epochs one after the other; neighbours are of like length.

    Fixed beforehand by the seed: a run that resumes skips to its place in it.

    Args:
        lengths: tokens of each row.
    """
    rows: list[int] = []
    for epoch in range(math.ceil(training.epochs)):
        generator = torch.Generator().manual_seed(training.seed + epoch)
        rows += get_length_grouped_indices(lengths, training.batch_size, generator=generator)
    return rows[: max(1, round(training.epochs * len(lengths)))]


class Encoded(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenised rows, in a given order."""

    def __init__(self, token_ids: list[list[int]], labels: list[int], order: list[int] | None = None) -> None:
        self._token_ids = token_ids
        self._labels = labels
        self._order = order if order is not None else list(range(len(labels)))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        row = self._order[position]
        return {"input_ids": self._token_ids[row], "labels": self._labels[row]}


class Progress(TrainerCallback):
    """Progress lines for people, loss and learning-rate curves for MLflow."""

    def __init__(self, context: Context, log: Log) -> None:
        self._context = context
        self._log = log
        self._loss = ""
        self._first: tuple[int, float] | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._first is None:
            self._first = (state.global_step, time.monotonic())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.is_world_process_zero:
            done = state.global_step / max(state.max_steps, 1)
            self._context.progress(done, f"step {state.global_step}/{state.max_steps}{self._loss}{self._left(state)}")
        return control

    def _left(self, state: TrainerState) -> str:
        """Time to the last step, at the pace of this process up to now; evaluations count."""
        step, since = self._first or (state.global_step, 0.0)
        if state.global_step - step < 5:
            return ""
        seconds = (time.monotonic() - since) / (state.global_step - step) * (state.max_steps - state.global_step)
        return f" · {timedelta(seconds=round(seconds))} left"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self._loss = f" · loss {float(logs['loss']):.3f}"
        numbers = {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}
        self._log.metrics(numbers, state.global_step)


def bf16_pays(training: Training) -> bool:
    """Whether to compute in bf16: as the recipe says, or where the hardware has it."""
    if training.precision != "auto":
        return training.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def train(context: Context, *, log: Log, home: Path) -> None:
    """Trains and leaves what finetune puts out in `context.out`.

    Args:
        home: folder for the trainer's checkpoints, one for all processes of this training.

    Raises:
        Temporary: SIGTERM came; a checkpoint is in the store.
    """
    recipe, training = context.recipe, context.recipe.training
    task = tasks.of(recipe.task)
    data = context.fetch(context.result("validate"), "train.parquet", "dev.parquet")
    rows, dev = pq.read_table(data / "train.parquet"), pq.read_table(data / "dev.parquet")
    model, tokenizer = task.for_training(recipe, context.scratch / "base")
    if training.warm_start:
        _warm_start(context, model)

    os.chdir(home)  # the trainer's state holds its path, which must not depend on where scratch is
    folder = Path("trainer")
    checkpoints = Checkpoints(context, folder)
    trainer = trainer_of(recipe, model, tokenizer, rows=rows, dev=dev, folder=folder)
    trainer.add_callback(Progress(context, log))
    trainer.add_callback(checkpoints)
    with trainer.args.main_process_first(desc="checkpoints"):
        resumed = restore(context, folder)
    state = TrainerState.load_from_json(str(resumed / "trainer_state.json")) if resumed else None
    if state is not None and _is_over(state, training):
        load_adapter(model, Path(str(state.best_model_checkpoint)))
    else:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        state = trainer.state
    if checkpoints.stopping and state.global_step < state.max_steps:
        raise Temporary(
            f"stopped by a signal after step {state.global_step} of {state.max_steps}",
            state="a checkpoint is in the store",
            next="repeat the command: it resumes there",
        )
    if trainer.is_world_process_zero():
        _write(context, model, state.log_history, tokenizer, rows)


def trainer_of(recipe: Recipe, model: Any, tokenizer: Any, *, rows: pa.Table, dev: pa.Table, folder: Path) -> Trainer:
    """The trainer of a recipe, ready to train.

    Args:
        rows, dev: tables with the columns `text` and `label`.
        folder: where it keeps its checkpoints.
    """
    task, training = tasks.of(recipe.task), recipe.training

    def encode(table: pa.Table) -> list[list[int]]:
        texts = table["text"].to_pylist()
        return list(tokenizer(texts, truncation=True, max_length=training.max_length)["input_ids"])

    encoded, labels = encode(rows), rows["label"].to_pylist()
    positions = order([len(ids) for ids in encoded], training=training)
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % workers:
        raise BadInput(
            f"a batch of {training.batch_size} rows cannot be shared evenly by {workers} GPUs",
            where="training.batch_size",
        )
    steps = math.ceil(len(positions) / (training.batch_size * training.gradient_accumulation))
    every = max(1, math.ceil(steps / training.evaluations))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # of the order of rows, which holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=training.batch_size // workers,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=round(training.warmup * steps),
        weight_decay=training.weight_decay,
        bf16=bf16_pays(training),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # and the best one, which load_best_model_at_end keeps
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        metric_for_best_model=f"eval_{METRIC}",
        greater_is_better=True,
        logging_steps=max(1, steps // 50),
        seed=training.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    # Else the trainer leaves it to the model to average over accumulated steps and processes, and BERT does not.
    model.get_base_model().accepts_loss_kwargs = False
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Encoded(encoded, labels, positions),
        eval_dataset=Encoded(encode(dev), dev["label"].to_pylist()),
        # Not beyond max_length, which may be all the positions that the model has.
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=None if training.max_length % 8 else 8),
        compute_metrics=lambda prediction: task.metrics(prediction.label_ids, prediction.predictions),
        callbacks=[EarlyStoppingCallback(training.early_stopping.patience)] if training.early_stopping else [],
    )
    trainer.remove_callback(PrinterCallback)  # our own lines say more
    return trainer


def _is_over(state: TrainerState, training: Training) -> bool:
    """Whether a checkpoint is of the last step, or of the one at which early stopping has ended the training."""
    if state.global_step >= state.max_steps:
        return True
    saved = state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
    waited = saved["attributes"]["early_stopping_patience_counter"] if saved else 0
    return training.early_stopping is not None and waited >= training.early_stopping.patience


def load_adapter(model: Any, folder: Path) -> None:
    """Puts a saved adapter and head over the model's. Raises RuntimeError where shapes differ."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _warm_start(context: Context, model: Any) -> None:
    """Puts the champion's adapter and head over the fresh ones. Labels and adapter must be the same."""
    identity = context.inputs["warm_start"]
    if identity == "none":
        return
    champion = result_of(context.store, "finetune", identity)
    folder = context.fetch(champion, "adapter")
    try:
        load_adapter(model, folder / "adapter")
    except RuntimeError as error:  # torch's word for shapes that differ
        raise BadInput(
            "the champion's adapter has another shape than the recipe's",
            where="training.warm_start",
            next="set warm_start: false for this run, or keep adapter and labels as the champion's",
        ) from error


VOLATILE = ("runtime", "per_second")
"""Parts of the names in the trainer's log that depend on the machine."""


def _write(context: Context, model: Any, log_history: list[dict[str, Any]], tokenizer: Any, rows: pa.Table) -> None:
    out, recipe = context.out, context.recipe
    history = [
        {key: value for key, value in entry.items() if not any(word in key for word in VOLATILE)}
        for entry in log_history
        if f"eval_{METRIC}" in entry  # the running means of the loss depend on where a run was resumed; MLflow has them
    ]
    _save_adapter(context, model)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    (out / "labels.json").write_text(json.dumps(list(recipe.data.labels), ensure_ascii=False))
    (out / "training.json").write_text(json.dumps(history, indent=1, sort_keys=True))
    pq.write_table(pa.table({"digest": rows["digest"].combine_chunks().sort()}), out / "train_digests.parquet")
    best = best_of(history)
    (out / "adapter" / "README.md").write_text(card.render(context, best, rows=rows.num_rows))


def _save_adapter(context: Context, model: Any) -> None:
    """Saves adapter and head without what differs between machines: paths, and the order of sets."""
    folder = context.out / "adapter"
    model.save_pretrained(str(folder), safe_serialization=True)
    file = folder / "adapter_config.json"
    base = context.recipe.base_model
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base.source, "revision": base.revision}
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    file.write_text(json.dumps(config, indent=1, sort_keys=True))


def best_of(history: list[dict[str, Any]]) -> dict[str, float]:
    """The dev scores of the checkpoint that was kept: the first with the highest metric."""
    best = max(history, key=lambda entry: float(entry[f"eval_{METRIC}"]))
    return {key.removeprefix("eval_"): float(value) for key, value in best.items() if key.startswith("eval_")}


def outcome(context: Context) -> Outcome:
    """What the manifest says of the training."""
    history = json.loads((context.out / "training.json").read_text())
    best = best_of(history)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Outcome(
        metrics={"dev": best, "steps": max(entry["step"] for entry in history)},
        measured={"device": device, "torch": torch.__version__},
    )
