"""Time to the same F1 on dev: finetune, the loop of a tutorial, and transformers.Trainer's defaults with peft.

    python -m benchmarks.finetune [--recipe FILE] [--rows 2000] [--target 0.74]

All three learn the recipe from the same rows. They train in turn, one evaluation interval at a time, so that
what else the machine does hits them alike; only training counts, not evaluation. Each stops at the target.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyarrow as pa
import torch
from transformers import Trainer, TrainingArguments, set_seed

from benchmarks import _laptop, _machine, _race
from benchmarks._race import LIMIT, Turn, turns
from components.finetune.train import trainer_of
from regraft import recipe, sources, tasks
from regraft.encoders import Encoder
from regraft.parts import Recipe


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all three are given."""

    declared: Recipe
    rows: pa.Table
    dev: pa.Table
    every: int
    """Rows between two evaluations."""
    folder: Path

    def made(self, name: str) -> Path:
        """A folder of one's own."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


def data(declared: Recipe, count: int, dev: int) -> tuple[pa.Table, pa.Table]:
    """Rows to train on and rows of dev, taken by a digest of the text."""
    import pyarrow.dataset as ds

    source = sources.expand(declared.data.source)
    kind = "json" if source.endswith(".jsonl") else "parquet"
    table = ds.dataset(source, format=kind, partitioning="hive").to_table()
    columns = declared.data.columns
    texts, labels = table[columns.text].to_pylist(), table[columns.label].to_pylist()
    order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(texts[i].encode()).digest())
    rows = pa.table(
        {"text": [texts[i] for i in order], "label": [declared.data.labels.index(labels[i]) for i in order]}
    )
    return rows.slice(dev, count), rows.slice(0, dev)


def regraft(course: Course) -> Iterator[Turn]:
    """What finetune does, without its own evaluations and checkpoints."""
    training = course.declared.training.model_copy(update={"epochs": 4, "early_stopping": None, "evaluations": 1})
    declared = course.declared.model_copy(update={"training": training})
    model, tokenizer = tasks.of(declared.task).for_training(declared, course.made("regraft-base"))
    folder = course.made("regraft")
    lesson = tasks.of(declared.task).lesson(declared, tokenizer, course.rows, course.dev)
    trainer = trainer_of(declared, model, lesson, folder=folder)
    yield from turns(trainer, course.every, training.batch_size)


def defaults(course: Course) -> Iterator[Turn]:
    """transformers.Trainer with its default arguments, learning rate 5e-5 among them, on the same adapter."""
    declared, rows = course.declared, course.rows
    model, tokenizer = tasks.of(declared.task).for_training(declared, course.made("defaults-base"))
    encoded = tokenizer(rows["text"].to_pylist(), truncation=True)["input_ids"]
    arguments = TrainingArguments(
        output_dir=str(course.made("defaults")), num_train_epochs=LIMIT, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": i, "labels": n} for i, n in zip(encoded, rows["label"].to_pylist(), strict=True)],
        processing_class=tokenizer,
    )
    yield from turns(trainer, course.every, arguments.per_device_train_batch_size)


def tutorial(course: Course) -> Iterator[Turn]:
    """Full fine-tuning: padding to 128, fp32, batches of 16, AdamW at 2e-5."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    declared, rows = course.declared, course.rows
    base = declared.base_model
    name, options = sources.pretrained(base.source, base.revision, course.made("tutorial-base"))
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        name, num_labels=len(declared.data.labels), trust_remote_code=False, **options
    )
    length = min(128, model.config.max_position_embeddings)
    batch = tokenizer(
        rows["text"].to_pylist(), truncation=True, padding="max_length", max_length=length, return_tensors="pt"
    )
    dataset = torch.utils.data.TensorDataset(
        batch["input_ids"], batch["attention_mask"], torch.tensor(rows["label"].to_pylist())
    )

    def learn(ids: Any, mask: Any, labels: Any) -> None:
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()

    yield from _race.loop(model, dataset, learn, every=course.every, batch=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=_laptop.EXAMPLE)
    parser.add_argument("--rows", type=int, default=2000, help="to train on (default: %(default)s)")
    parser.add_argument("--dev", type=int, default=600, help="rows of dev (default: %(default)s)")
    parser.add_argument("--every", type=int, default=256, help="rows between evaluations (default: %(default)s)")
    parser.add_argument("--target", type=float, default=0.74, help="F1 (macro) on dev (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    _machine.show()
    os.environ.setdefault("REGRAFT_DATA", _laptop.environment()["REGRAFT_DATA"])
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        declared = recipe.load(arguments.recipe)
        rows, dev = data(declared, arguments.rows, arguments.dev)
        course = Course(declared=declared, rows=rows, dev=dev, every=arguments.every, folder=Path(folder))
        race(course, arguments.target)


def race(course: Course, target: float) -> None:
    """Lets the three train in turns until each is at the target, and prints what that took."""
    task, dev = tasks.of(course.declared.task), course.dev
    _, tokenizer = task.for_training(course.declared, course.made("tokenizer"))

    def score(model: Any) -> float:
        said = task.logits(Encoder(model, tokenizer, 128), dev["text"].to_pylist())
        return float(task.scored(dev["label"].to_pylist(), said)["f1_macro"])

    contestants = {
        "regraft finetune": partial(regraft, course),
        "Trainer defaults + peft": partial(defaults, course),
        "tutorial loop": partial(tutorial, course),
    }
    title = f"Training to F1 {target:g} on dev, {course.rows.num_rows:,} rows, one interleaved run"
    _race.race(contestants, score, target, title=title, metric="F1")


if __name__ == "__main__":
    main()
