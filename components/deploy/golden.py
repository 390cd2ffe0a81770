"""Golden requests: rows of the holdout with the answers that the champion gives offline, through `regraft.tasks`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft import step as steps
from regraft import tasks
from regraft.ledger import Entry
from regraft.memo import Memo
from regraft.parts import Recipe
from regraft.store import Store

SECONDS = 120.0
"""How long the offline answers may take; of a holdout that takes longer, a random part is asked."""
FIRST, CHUNK = 16, 256
"""Rows that are asked at once: at first, to know how long one takes, and later at most."""
SEED = 20_261_127


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Frozen rows and what the champion answers to them offline: tables with a row each, in random order."""

    rows: Any
    answers: Any

    def first(self, count: int) -> Golden:
        """A random part, since the order is random."""
        return Golden(rows=self.rows.slice(0, count), answers=self.answers.slice(0, count))


def of(*, store: Store, recipe: Recipe, entry: Entry, model: Callable[[], Any], folder: Path) -> Golden:
    """The golden requests of a champion, kept in the store so that a rollback need not load the model again.

    All clean holdout rows that can be answered within SECONDS: 500 were too few to tell a loss of 0.01.

    Args:
        model: loads the champion; called only when the store has no answers yet.
        folder: scratch.
    """
    import pyarrow as pa

    def answered() -> bytes:
        asked = _clean_rows(store, recipe, entry, folder)
        task, loaded, answers, done, count = tasks.of(recipe.task), model(), list[Any](), 0, FIRST
        started = time.monotonic()
        while count > 0 and done < asked.num_rows:
            answers.append(task.answers(loaded, asked.slice(done, count)))
            done, spent = done + len(answers[-1]), time.monotonic() - started
            count = min(CHUNK, int(done * (SECONDS - spent) / max(spent, 1e-9)))
        table = pa.concat_tables(answers)
        return json.dumps({"rows": asked.slice(0, len(table)).to_pylist(), "answers": table.to_pylist()}).encode()

    memo = Memo(store=store, kind="golden", code=__name__, task=recipe.task)
    made_from = {"model": entry.model, "digest": entry.model_digest or "", "run": entry.run}

    def read(kept: bytes) -> Golden:
        rows, answers = (pa.Table.from_pylist(json.loads(kept)[name]) for name in ("rows", "answers"))
        if len(rows) != len(answers):
            raise ValueError(f"{len(rows)} rows have {len(answers)} answers")
        return Golden(rows=rows, answers=answers)

    return memo.get(entry.model, made_from, answered, read=read)


def _clean_rows(store: Store, recipe: Recipe, entry: Entry, folder: Path) -> Any:
    """The holdout of the champion's run that it was not trained on, text and target, in random order."""
    import numpy as np
    import pyarrow.parquet as pq

    validated = steps.upstream(store, entry.run, "validate")
    trained = steps.result_of(store, "finetune", entry.model)
    holdout = store.fetch(f"validate/{validated.identity}", validated, folder, only=("holdout.parquet",))
    digests = store.fetch(f"finetune/{entry.model}", trained, folder, only=("train_digests.parquet",))
    table = pq.read_table(holdout / "holdout.parquet", columns=["text", *tasks.of(recipe.task).ROWS.target])
    seen = tasks.seen(recipe.task, table, pq.read_table(digests / "train_digests.parquet"), trained.document)
    table = table.filter(~seen)
    return table.take(np.random.default_rng(SEED).permutation(table.num_rows))
