"""Rows of the windows that earlier champions were trained on, trained on again so that they are not forgotten."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from regraft import tasks
from regraft.errors import BadInput, NotFound, Refused, Temporary
from regraft.manifest import Manifest
from regraft.step import Context, Work, upstream

WINDOWS = 10
"""Champions, the newest, whose windows count."""
INPUT = "replay."
"""What the inputs that name windows begin with; then comes the run that froze the window."""


def inputs(context: Context) -> dict[str, str]:
    """Digests of the windows, as the ledger names them now."""
    if not context.recipe.training.replay:
        return {}
    return {INPUT + run: window.outputs["train.parquet"].sha256 for run, window in _windows(context)}


def _windows(context: Context) -> Iterator[tuple[str, Manifest]]:
    """The runs by which champions came before this run, each with its data, the newest first."""
    for run in dict.fromkeys(entry.run for entry in reversed(context.ledger.earlier(context.run, WINDOWS))):
        try:
            yield run, upstream(context.store, run, "validate")
        except (NotFound, Refused) as gone:
            print(f"warning: the window of run {run} is not replayed: {gone.what}", file=sys.stderr, flush=True)


def rows(context: Work, fresh: Any, dev: Any) -> Any:
    """So many rows of earlier windows that they are the share `training.replay` of all, or as many as there are.

    Chosen by the recipe's seed among the rows of all windows; an input that is there already, or in dev, does not come.

    Args:
        fresh: the rows of this run's window to train on.

    Returns:
        a table with text, digest and target.
    """
    import numpy as np
    import pyarrow as pa

    training, target = context.recipe.training, tasks.of(context.recipe.task).ROWS.target
    none = fresh.select(["text", "digest", *target]).slice(0, 0)
    windows = [(name, digest) for name, digest in context.inputs.items() if name.startswith(INPUT)]
    older = [_window(context, *window, none.column_names) for window in windows]
    pool = pa.concat_tables([none, *older]).sort_by([(name, "ascending") for name in ("digest", *target)])
    digests = np.asarray(pool["digest"])
    known = np.isin(digests, np.concatenate([np.asarray(fresh["digest"]), np.asarray(dev["digest"])]))
    again = np.append(False, digests[1:] == digests[:-1])[: len(digests)]  # the same input in several windows
    pool = pool.filter(pa.array(~known & ~again))
    wanted = min(round(fresh.num_rows * training.replay / (1 - training.replay)), pool.num_rows)
    chosen = np.random.default_rng(training.seed).permutation(pool.num_rows)[:wanted]
    return pool.take(np.sort(chosen))


def _window(context: Work, name: str, digest: str, columns: list[str]) -> Any:
    """The rows of an earlier run to train on. Raises BadInput where their target means something else."""
    import pyarrow.parquet as pq

    run = name.removeprefix(INPUT)
    window, now = upstream(context.store, run, "validate"), context.result("validate")
    if window.outputs["train.parquet"].sha256 != digest:
        raise Temporary(f"the window of run {run} was frozen anew while this run began", next="repeat the command")
    for field in tasks.of(context.recipe.task).READS:
        if field.startswith("data.") and window.document["recipe"].get(field) != now.document["recipe"].get(field):
            raise BadInput(
                f"the window of run {run} was frozen with another {field}: its rows teach something else",
                where="training.replay",
                next="set replay: 0 until a champion was trained with what the recipe says now",
            )
    return pq.read_table(context.fetch(window, "train.parquet") / "train.parquet", columns=columns)


def count(context: Work, trained: int) -> int:
    """How many of the rows that were trained on are of earlier windows."""
    fresh: int = context.result("validate").metrics["rows"]["train"]
    return trained - fresh
