"""Time to the same loss on dev: finetune of a chat, trl's SFTTrainer, and the loop of a tutorial.

    python -m benchmarks.sft [--recipe FILE] [--rows 96] [--target -3.6] [--length 1024]

All three learn the same conversations from the same base model. trl has the recipe's adapter, batches and learning
rate, since its own rate is meant for whole models and would hardly move an adapter; all else are its defaults. The
tutorial's loop trains the whole model in fp32, every row padded to --length, with logits of every place. They train in
turn, one evaluation interval at a time, so that what else the machine does hits them alike; only training counts. The
score is the mean log-likelihood (natural) of a token of dev's answers. `make bench` puts trl into .cache/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow as pa
import torch

from benchmarks import _laptop, _machine, _race
from benchmarks._race import LIMIT, Turn, turns
from components.finetune.train import trainer_of
from regraft import reading, recipe, sources, tasks
from regraft.causal import Causal, answering, asking, assistant
from regraft.parts import Recipe

AT_ONCE = 2
"""Rows of the tutorial's batches that go through the model at once: of eight, padded, the logits alone fill 24 GiB."""
TRL = _laptop.ROOT / ".cache/bench"
EXAMPLE = _laptop.ROOT / "dags/recipes/support-chat.yaml"


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all three are given."""

    declared: Any
    rows: pa.Table
    dev: pa.Table
    every: int
    """Rows between two evaluations."""
    length: int
    """Tokens that the tutorial pads each row to."""
    folder: Path

    def made(self, name: str) -> Path:
        """A folder of one's own."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Text and answer of each row to train on."""
        return zip(self.rows["text"].to_pylist(), self.rows["answer"].to_pylist(), strict=True)


def data(declared: Recipe, count: int, dev: int) -> tuple[pa.Table, pa.Table]:
    """Rows to train on and rows of dev, in an order of chance."""
    source = tasks.source(declared.task, declared.data, declared.data.source)
    tables = []
    for table, _ in reading.batches(source, reading.files(source)):
        read, _ = tasks.read(declared.task, table, declared.data)
        good = ~np.any([applies for _, applies in read.problems], axis=0)
        tables.append(pa.table({"text": read.text, **read.target}).filter(pa.array(good)))
    whole = pa.concat_tables(tables)
    mixed = whole.take(np.random.default_rng(0).permutation(whole.num_rows))
    return mixed.slice(dev, count), mixed.slice(0, dev)


def regraft(course: Course) -> Iterator[Turn]:
    """What finetune does, without its own evaluations and checkpoints."""
    training = course.declared.training.model_copy(update={"epochs": 4, "early_stopping": None, "evaluations": 1})
    declared = course.declared.model_copy(update={"training": training})
    model, tokenizer = tasks.of(declared.task).for_training(declared, course.made("regraft-base"))
    lesson = tasks.of(declared.task).lesson(declared, tokenizer, course.rows, course.dev)
    trainer = trainer_of(declared, model, lesson, folder=course.made("regraft"))
    yield from turns(trainer, course.every, training.batch_size)


def trl(course: Course) -> Iterator[Turn]:
    """trl's SFTTrainer on conversations, with the recipe's adapter, batch size and learning rate."""
    sys.path.append(str(TRL))
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    declared, training = course.declared, course.declared.training
    adapted, tokenizer = tasks.of(declared.task).for_training(declared, course.made("trl-adapter"))
    name, _ = sources.pretrained(declared.base_model.source, declared.base_model.revision, course.made("trl-base"))
    told = [asking.conversation(tokenizer, declared.system, messages(pair)) for pair in course.pairs]
    dataset = Dataset.from_list([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in told])
    arguments = SFTConfig(
        output_dir=str(course.made("trl")), num_train_epochs=LIMIT, use_cpu=not torch.cuda.is_available(),
        report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
        per_device_train_batch_size=training.batch_size, learning_rate=training.learning_rate,
    )  # fmt: skip
    trainer = SFTTrainer(model=name, args=arguments, train_dataset=dataset, peft_config=adapted.peft_config["default"])
    yield from turns(trainer, course.every, training.batch_size)


def messages(pair: tuple[str, str]) -> list[Any]:
    """The turns of a row, its answer last."""
    return [*json.loads(pair[0]), json.loads(pair[1])]


def tutorial(course: Course) -> Iterator[Turn]:
    """Full fine-tuning in fp32: each row padded to one length, AdamW at 2e-5, the loss over whole conversations."""
    from transformers import AutoModelForCausalLM

    declared, batch = course.declared, course.declared.training.batch_size
    _, tokenizer = tasks.of(declared.task).for_training(declared, course.made("tutorial-adapter"))
    name, options = sources.pretrained(
        declared.base_model.source, declared.base_model.revision, course.made("tutorial-base")
    )
    model = AutoModelForCausalLM.from_pretrained(name, dtype="float32", trust_remote_code=False, **options)
    told = [asking.conversation(tokenizer, declared.system, messages(pair)) for pair in course.pairs]
    texts = [str(tokenizer.apply_chat_template(each, tokenize=False)) for each in told]
    encoded = tokenizer(texts, truncation=True, padding="max_length", max_length=course.length, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    dataset = torch.utils.data.TensorDataset(encoded["input_ids"], encoded["attention_mask"], labels)

    def learn(*columns: Any) -> None:
        parts = list(zip(*(each.split(AT_ONCE) for each in columns), strict=True))
        for ids, mask, right in parts:
            (model(input_ids=ids, attention_mask=mask, labels=right).loss / len(parts)).backward()

    yield from _race.loop(model, dataset, learn, every=course.every, batch=batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=EXAMPLE)
    parser.add_argument("--rows", type=int, default=96, help="to train on (default: %(default)s)")
    parser.add_argument("--dev", type=int, default=16, help="rows of dev (default: %(default)s)")
    parser.add_argument("--every", type=int, default=16, help="rows between evaluations (default: %(default)s)")
    parser.add_argument("--target", type=float, default=-3.6, help="score on dev (default: %(default)s)")
    parser.add_argument("--length", type=int, default=1024, help="of the tutorial's rows (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    _machine.show()
    os.environ.setdefault("REGRAFT_DATA", _laptop.environment()["REGRAFT_DATA"])
    os.environ.setdefault("REGRAFT_BASE_MODEL", str(_laptop.ROOT / ".cache/models/smollm2"))
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        declared = recipe.load(arguments.recipe)
        rows, dev = data(declared, arguments.rows, arguments.dev)
        given = {"rows": rows, "dev": dev, "every": arguments.every, "length": arguments.length}
        race(Course(declared=declared, folder=Path(folder), **given), arguments.target)


def race(course: Course, target: float) -> None:
    """Lets the three train in turns until each is at the target, and prints what that took."""
    declared = course.declared
    _, tokenizer = tasks.of(declared.task).for_training(declared, course.made("tokenizer"))
    taught = partial(assistant.taught, tokenizer, declared.system, **assistant.space(declared))
    dev = [taught(pair) for pair in replace(course, rows=course.dev).pairs]

    def score(model: Any) -> float:
        found = answering.of_references(Causal(model, tokenizer, *assistant.space(declared).values()), dev)
        total, count = np.sum(found, axis=0)
        return float(total / count)

    contestants = {
        "regraft finetune": partial(regraft, course),
        "trl SFTTrainer": partial(trl, course),
        f"tutorial loop, padded to {course.length:,}": partial(tutorial, course),
    }
    tokens = course.every * np.mean([len(taught(pair).ids) for pair in course.pairs])
    title = f"Training to {target:g} on dev, {course.rows.num_rows:,} conversations, one interleaved run"
    _race.race(contestants, score, target, title=title, metric="log-likelihood a token", tokens=float(tokens))


if __name__ == "__main__":
    main()
