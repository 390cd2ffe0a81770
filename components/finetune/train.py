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
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from components.finetune import card, chain, estimate, replay
from components.finetune.checkpoints import Checkpoints, restore
from components.finetune.estimate import PACE, Estimate
from components.finetune.training_log import Log
from regraft import adapters, base_model, bases, tasks
from regraft.errors import BadInput, Temporary
from regraft.exchange import Lesson
from regraft.parts import Recipe, Training
from regraft.step import Outcome, Work, result_of


def order(lengths: list[int], *, training: Training) -> list[int]:
    """Rows in the order they are trained on, all epochs one after the other; neighbours are of like length.

    Fixed beforehand by the seed: a run that resumes skips to its place in it.

    Args:
        lengths: tokens of each row.
    """
    rows: list[int] = []
    for epoch in range(math.ceil(training.epochs)):
        generator = torch.Generator().manual_seed(training.seed + epoch)
        rows += get_length_grouped_indices(lengths, training.batch_size, generator=generator)  # type: ignore[no-untyped-call]
    return rows[: max(1, round(training.epochs * len(lengths)))]


class Progress(TrainerCallback):
    """Progress lines for people, loss and learning-rate curves for MLflow; and the time that steps take."""

    def __init__(self, context: Work, log: Log, foreseen: Estimate) -> None:
        self._context = context
        self._log = log
        self._foreseen = foreseen
        self._loss = ""
        self._first: tuple[int, float] | None = None
        self._begun = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._begun = time.monotonic()
        if self._first is None:
            self._first = (state.global_step, self._begun)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._foreseen.took += time.monotonic() - self._begun
        if state.is_world_process_zero:
            first, step = (self._first or (0, 0.0))[0], state.global_step
            if step == first + PACE:
                self._foreseen.tell(self._context, first, step)
            done = step / max(state.max_steps, 1)
            self._context.progress(done, f"step {step}/{state.max_steps}{self._loss}{self._left(step)}")
        return control

    def _left(self, step: int) -> str:
        """Time to the last step, at the pace of this process up to now; evaluations count."""
        first, since = self._first or (step, 0.0)
        if step - first < PACE:
            return ""
        foreseen = self._foreseen
        done, left = foreseen.between(first, step), foreseen.between(step, len(foreseen.tokens))
        return f" · {timedelta(seconds=round((time.monotonic() - since) * left / done))} left"

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


def train(context: Work, *, log: Log, home: Path) -> None:
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
    if training.replay:
        older = replay.rows(context, rows, dev)
        rows = pa.concat_tables([rows.select(older.column_names), older])
    base = context.scratch / "base"
    began = bases.for_training(context, base)
    model, tokenizer = task.for_training(recipe, base)
    if training.warm_start:
        _warm_start(context, model)

    os.chdir(home)  # the trainer's state holds its path, which must not depend on where scratch is
    folder = Path("trainer")
    checkpoints = Checkpoints(context, folder)
    lesson = task.lesson(recipe, tokenizer, rows, dev)
    trainer = trainer_of(recipe, model, lesson, folder=folder)
    trainer.add_callback(checkpoints)
    with trainer.args.main_process_first(desc="checkpoints"):
        resumed = restore(context, folder)
    state = TrainerState.load_from_json(str(resumed / "trainer_state.json")) if resumed else None
    if state is not None and _is_over(state, training):
        load_adapter(model, Path(str(state.best_model_checkpoint)))
    else:
        foreseen = estimate.of(context, trainer, lesson, order(lesson.lengths, training=training))
        log.metrics(foreseen.facts(), 0)
        trainer.add_callback(Progress(context, log, foreseen))
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        state = trainer.state
        if trainer.is_world_process_zero():
            log.metrics(foreseen.facts(), state.global_step)
            (context.scratch / ESTIMATE).write_text(json.dumps(foreseen.facts()))
    if checkpoints.stopping and state.global_step < state.max_steps:
        raise Temporary(
            f"stopped by a signal after step {state.global_step} of {state.max_steps}",
            state="a checkpoint is in the store",
            next="repeat the command: it resumes there",
        )
    if trainer.is_world_process_zero():
        _write(context, model, state.log_history, tokenizer, rows, lesson)
        (context.out / base_model.RECORD).write_text(json.dumps(began, indent=1, sort_keys=True))


def trainer_of(recipe: Recipe, model: Any, lesson: Lesson, *, folder: Path) -> Trainer:
    """The trainer of a recipe, ready to train.

    Args:
        folder: where it keeps its checkpoints.
    """
    training = recipe.training
    positions = order(lesson.lengths, training=training)
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
        per_device_eval_batch_size=lesson.dev_batch,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=round(training.warmup * steps),
        weight_decay=training.weight_decay,
        bf16=adapters.bf16_pays(training),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # and the best one, which load_best_model_at_end keeps
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        metric_for_best_model=f"eval_{tasks.chosen_by(recipe)}",
        greater_is_better=True,
        logging_steps=max(1, steps // 50),
        seed=training.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    if lesson.knowing is not None:
        lesson = lesson.knowing(model.to(arguments.device))
    # Else the trainer leaves it to the model to average over accumulated steps and processes, and BERT does not.
    model.get_base_model().accepts_loss_kwargs = False
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=lesson.train(positions),
        eval_dataset=lesson.dev,
        data_collator=lesson.collator,
        compute_metrics=lesson.score,
        compute_loss_func=lesson.loss,
        preprocess_logits_for_metrics=lesson.reduced,
        callbacks=[EarlyStoppingCallback(training.early_stopping.patience)] if training.early_stopping else [],
    )
    trainer.remove_callback(PrinterCallback)  # our own lines say more
    return trainer


def _is_over(state: TrainerState, training: Training) -> bool:
    """Whether a checkpoint is of the last step, or of the one at which early stopping has ended the training."""
    if state.global_step >= state.max_steps:
        return True
    callbacks: Any = state.stateful_callbacks  # a dictionary once training has begun
    saved = callbacks.get(EarlyStoppingCallback.__name__)
    waited = saved["attributes"]["early_stopping_patience_counter"] if saved else 0
    return training.early_stopping is not None and waited >= training.early_stopping.patience


def load_adapter(model: Any, folder: Path) -> None:
    """Puts a saved adapter and head over the model's. Raises RuntimeError where shapes differ."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _warm_start(context: Work, model: Any) -> None:
    """Puts the champion's adapter and head over the fresh ones. Labels and adapter must be the same, also where another
    one would fit: with another alpha the same weights are another model."""
    identity = context.inputs["warm_start"]
    if identity == chain.AFRESH:
        return
    champion = result_of(context.store, "finetune", identity)
    folder = context.fetch(champion, "adapter") / "adapter"
    before, now = json.loads((folder / "adapter_config.json").read_bytes()), model.peft_config["default"].to_dict()
    other = [key for name, key in ADAPTER.items() if _spelled(before.get(name)) != _spelled(now.get(name))]
    what = f"the champion's adapter has another {' and '.join(other)} than the recipe's"
    try:
        if not other:
            load_adapter(model, folder)
            return
    except RuntimeError:  # torch's word for shapes that differ
        what = "the champion's head has another shape than the recipe's: its labels are others"
    raise BadInput(
        what,
        where="training.warm_start",
        next="set warm_start: false for this run, or keep adapter and labels as the champion's",
    )


ADAPTER = {
    "r": "adapter.r",
    "lora_alpha": "adapter.alpha",
    "target_modules": "adapter.target_modules",
    "layers_to_transform": "adapter.top_layers",
    "use_dora": "adapter.dora",
    "use_rslora": "adapter.rank_stabilized",
}
"""What makes the same weights the same model: peft's names, and the recipe's."""


def _spelled(value: Any) -> Any:
    """A setting of an adapter, however peft keeps it: sets and lists of names, and nothing for false."""
    return sorted(value) if isinstance(value, list | set | tuple) else value or None


ESTIMATE = "estimate.json"
"""In scratch: what was foreseen and what came, for `outcome`, which may be another process."""
VOLATILE = ("runtime", "per_second")
"""Parts of the names in the trainer's log that depend on the machine."""


def _write(
    context: Work, model: Any, log_history: list[dict[str, Any]], tokenizer: Any, rows: pa.Table, lesson: Lesson
) -> None:
    out, metric = context.out, tasks.chosen_by(context.recipe)
    history = [
        {key: value for key, value in entry.items() if not any(word in key for word in VOLATILE)}
        for entry in log_history
        if f"eval_{metric}" in entry  # the running means of the loss depend on where a run was resumed; MLflow has them
    ]
    _save_adapter(context, model)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    for name, content in lesson.files.items():
        (out / name).write_text(content, encoding="utf-8")
    (out / "training.json").write_text(json.dumps(history, indent=1, sort_keys=True))
    pq.write_table(pa.table({"input": rows["digest"].combine_chunks().sort()}), out / "train_digests.parquet")
    best = best_of(history, metric)
    (out / "adapter" / "README.md").write_text(card.render(context, best, rows=rows.num_rows))


def _save_adapter(context: Work, model: Any) -> None:
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


def best_of(history: list[dict[str, Any]], metric: str) -> dict[str, float]:
    """The dev scores of the checkpoint that was kept: the first with the highest metric."""
    best = max(history, key=lambda entry: float(entry[f"eval_{metric}"]))
    return {key.removeprefix("eval_"): float(value) for key, value in best.items() if key.startswith("eval_")}


def outcome(context: Work) -> Outcome:
    """What the manifest says of the training."""
    history = json.loads((context.out / "training.json").read_text())
    best = best_of(history, tasks.chosen_by(context.recipe))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    metrics: dict[str, Any] = {"dev": best, "steps": max(entry["step"] for entry in history)}
    if context.recipe.training.warm_start:
        metrics["chain"] = chain.before(context)
    if context.recipe.training.replay:
        trained = pq.read_metadata(context.out / "train_digests.parquet").num_rows
        metrics["replayed"] = replay.count(context, trained)
    file = context.scratch / ESTIMATE
    foreseen = json.loads(file.read_text()) if file.exists() else {}  # there is none of a training that was over before
    return Outcome(metrics=metrics, measured={"device": device, "torch": torch.__version__, **foreseen})
