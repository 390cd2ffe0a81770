"""Golden requests: rows of the holdout with the answers that the champion gives offline, through `regraft.tasks`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft import step as steps
from regraft import tasks
from regraft.errors import NotFound
from regraft.ledger import Entry
from regraft.recipe import Recipe
from regraft.store import Store
from regraft.tasks.text_classification import Classifier

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Rows enough that a wrong label map, tokenizer or head cannot hide, few enough that a trial takes seconds.
ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What must come out: probabilities of shape (texts, labels), and the true label of each text."""

    texts: list[str]
    labels: list[int]
    probabilities: npt.NDArray[np.float32]


def of(*, store: Store, recipe: Recipe, entry: Entry, classifier: Callable[[], Classifier], folder: Path) -> Golden:
    """The golden requests of a champion, kept in the store so that a rollback need not load the model again.

    Args:
        classifier: loads the champion; called only when the store has no answers yet.
        folder: scratch.
    """
    import numpy as np

    key = f"golden/{entry.model}.json"
    try:
        kept = store.read_json(key)
    except NotFound:
        import pyarrow.parquet

        validated = steps.upstream(store, entry.run, "validate")
        files = store.fetch(f"validate/{validated.identity}", validated, folder, only=("holdout.parquet",))
        table = pyarrow.parquet.read_table(files / "holdout.parquet", columns=["text", "label"])
        table = table.take(list(range(0, table.num_rows, max(table.num_rows // ROWS, 1)))[:ROWS])
        kept = {"texts": table["text"].to_pylist(), "labels": table["label"].to_pylist()}
        answers = tasks.of(recipe.task).probabilities(classifier(), kept["texts"])
        kept["probabilities"] = [[float(value) for value in row] for row in answers]
        store.replace(key, json.dumps(kept).encode())
    return Golden(
        texts=kept["texts"],
        labels=kept["labels"],
        probabilities=np.asarray(kept["probabilities"], dtype=np.float32),
    )
