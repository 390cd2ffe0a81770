"""One folder a task: what its rows are, what its models are, how good they are, what a report shows of them.

A task is a module that has these names, and steps know no more of a task than them. `recipe` is one of its own, `rows`
and `answers` are Arrow tables with a row each, `target` is the frozen columns that ROWS.target names.

- `Recipe`: what a recipe says of it. `READS`: fields of it on which every step's result depends.
- `ROWS`, `rows(table, data)`, `shown(target, data)`, `known(data)`, `named(data, values)`: what a row of a source is.
- `counts(target, data)`, `checks(data, seen)`: what the contract counts and checks beside what it does for all tasks.
- `for_training(recipe, folder)`: base model with a fresh adapter and head, and its tokenizer.
- `lesson(recipe, tokenizer, rows, dev)`: what the one training loop needs. `card(recipe)`: a section of the model card.
- `tokenizer(name)`, `mask(recipe, tokenizer, rows)`: what of rows is trained on; of tasks that do not learn all of it.
- `CHOSEN_BY`: the score on dev that checkpoints are chosen by, where it is none of METRICS.
- `load(recipe, files, folder)`: a finetune's model for inference. `answers(model, rows)`: what it says.
- `untrained(model)`: the same without what it learned; of tasks whose base models answer by themselves.
- `merged(recipe, files, folder, out)`: saves a finetune's model as a base model, what it learned in its weights; one
  function of a family, of tasks whose champions others may be trained on (`champion://NAME`).
- `LIBRARIES`: of steps by name, distributions that determine results beside the step's own.
- `METRICS`, `tally(recipe, rows, answers)`, `broken(answers)`: how good answers are, as sums over rows.
- `own(recipe, rows, challenger, champion)`: what the task adds to a verdict.
- `comparable(recipe, other)`: why models of two recipes cannot be compared; None where they can.
- `figures(recipe, contest)`, `examples(recipe, contest)`, `predictions(recipe, contest)`: what is shown and kept.
- `probes(recipe)`, `prompted(recipe, name, prompts)`, `probed(recipe, name, prompts, ours, others)`: sets of prompts
  that models are asked beside the holdout, and their gates; of tasks that have them.
- `compared(recipe)`, `judged(recipe, rows, sides, people, keep)`: pairs of answers that people compared, and what a
  judge that is held against them says of both models' answers; of tasks whose answers one can compare.
- `logged(recipe, model, rows)`: what logs the model in MLflow (name, pip_requirements, tags), and the proof of it.
- `tensors(recipe)`, `build(recipe, model, folder)`: how Triton serves it.
- `STREAMS`: that Triton answers a row's request piece by piece, rather than many rows at once.
- `INSTEAD`: of metrics that served answers do not show, one that they do.
- `request(rows)`, `read(answer)`, `joined(parts)`, `numbers(served)`: asks Triton, and gives what it says as `answers`.
- `flaw(recipe, served, offline)`, `distance(one, other)`, `COMPARED`: how near served answers are to those offline.
- `asked(row)`, `said(recipe, row, outputs)`, `short(said)`: one request as JSON, and its answer for people.

A task that Triton does not serve has none of the names from `tensors` on, and no `untrained` where a model has to learn
before it answers at all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from regraft import rows
from regraft.exchange import Read
from regraft.parts import Data, Recipe
from regraft.rows import INVALID, MALFORMED, NO_TEXT, Source, decoded, tidy


def names() -> list[str]:
    """The tasks that there are."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]


def of(task: str) -> ModuleType:
    """The module of a task, such as text-classification."""
    return importlib.import_module(f"regraft.tasks.{task.replace('-', '_')}")


def served(task: str) -> bool:
    """Whether Triton serves models of a task; else its pipeline ends with a champion in MLflow and the ledger."""
    return hasattr(of(task), "build")


def streams(task: str) -> bool:
    """Whether Triton answers a task's requests piece by piece, a row each; else it answers many rows at once."""
    return bool(getattr(of(task), "STREAMS", False))


def heard_by(recipe: Recipe) -> str:
    """The metric that served answers are judged by: the recipe's gates.metric, or what the task has instead."""
    metric = recipe.gates.metric
    return str(getattr(of(recipe.task), "INSTEAD", {}).get(metric, metric))


def chosen_by(recipe: Recipe) -> str:
    """The score on dev that checkpoints are chosen by: the task's own, or else the recipe's gates.metric."""
    return getattr(of(recipe.task), "CHOSEN_BY", None) or recipe.gates.metric


def source(task: str, data: Data, location: str) -> Source:
    """What is read of data at a location: the columns of the task's rows, the time and the slices."""
    module, columns = of(task), data.columns
    kinds = {key: kind for key, kind in module.ROWS.read.items() if getattr(columns, key) is not None}
    wanted: dict[str, tuple[str, Any]] = {key: (getattr(columns, key), kind) for key, kind in kinds.items()}
    if columns.time is not None:
        wanted["time"] = (columns.time, "time")
    wanted |= {f"slice.{name}": (name, "name") for name in columns.slices}
    known = {key: frozenset(values) for key, values in module.known(data).items()}
    return Source(location=location, quoting=data.quoting, columns=wanted, known=known)


def anchor(recipe: Recipe) -> Source | None:
    """The fixed anchor set, read as data.source is, but for time and slices; None without one."""
    if recipe.gates.forgetting is None:
        return None
    whole = source(recipe.task, recipe.data, recipe.gates.forgetting.anchor)
    kept = {key: column for key, column in whole.columns.items() if key in of(recipe.task).ROWS.read}
    return replace(whole, columns=kept)


def read(task: str, table: Any, data: Data) -> tuple[Read, Any]:
    """What the rows of a batch of `reading.batches` are, and their tidy texts.

    The problems that rows of any task may have come before the task's own.
    """
    import numpy as np
    import pyarrow.compute as pc

    module = of(task)
    text, invalid = decoded(table["text"].combine_chunks().fill_null(b""))
    columns = {key: table[key].combine_chunks() for key in module.ROWS.read if key in table.column_names}
    own = module.rows({**columns, "text": text}, data)
    neat = tidy(own.text.fill_null(""))
    malformed = np.asarray(pc.is_valid(table["malformed"]))
    common = ((MALFORMED, malformed), (NO_TEXT, pc.utf8_length(neat).to_numpy() == 0), (INVALID, invalid))
    return replace(own, problems=(*common, *own.problems)), neat


def seen(task: str, holdout: Any, trained: Any, document: Mapping[str, Any]) -> Any:
    """Which rows have an input that a model was trained on, shape (rows,), bool.

    Args:
        trained: its train_digests.parquet; what regraft 0.1 wrote there, the task knows.
        document: all that its identity is the digest of.
    """
    if "input" not in trained.column_names:
        return of(task).seen_by_digest(holdout, trained, document["recipe"])
    return rows.seen(holdout, trained)
