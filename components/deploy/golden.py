"""Golden requests: rows of the holdout with the answers that the champion gives offline, through `regraft.tasks`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

SECONDS = 120.0
"""How long the offline answers may take; of a holdout that takes longer, a random part is asked."""
CHUNK = 256
SEED = 20_261_127


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What must come out: probabilities of shape (texts, labels), and the true label of each text, in random order."""

    texts: list[str]
    labels: list[int]
    probabilities: npt.NDArray[np.float32]

    def first(self, rows: int) -> Golden:
        """A random part, since the order is random."""
        return Golden(texts=self.texts[:rows], labels=self.labels[:rows], probabilities=self.probabilities[:rows])


def of(*, store: Store, recipe: Recipe, entry: Entry, classifier: Callable[[], Classifier], folder: Path) -> Golden:
    """The golden requests of a champion, kept in the store so that a rollback need not load the model again.

    All clean holdout rows that can be answered within SECONDS: 500 were too few to tell a loss of 0.01.

    Args:
        classifier: loads the champion; called only when the store has no answers yet.
        folder: scratch.
    """
    import numpy as np

    key = f"golden/{entry.model}.json"
    try:
        kept = store.read_json(key)
    except NotFound:
        texts, labels = _clean_rows(store, entry, folder)
        task, answers, started = tasks.of(recipe.task), list[Any](), time.monotonic()
        for start in range(0, len(texts), CHUNK):
            answers.append(task.probabilities(classifier(), texts[start : start + CHUNK]))
            if time.monotonic() - started > SECONDS:
                break
        probabilities = np.concatenate(answers)
        kept = {
            "texts": texts[: len(probabilities)],
            "labels": labels[: len(probabilities)],
            "probabilities": probabilities.tolist(),
        }
        store.replace(key, json.dumps(kept).encode())
    return Golden(
        texts=kept["texts"],
        labels=kept["labels"],
        probabilities=np.asarray(kept["probabilities"], dtype=np.float32),
    )


def _clean_rows(store: Store, entry: Entry, folder: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of the holdout of the champion's run that it was not trained on, in random order."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    validated = steps.upstream(store, entry.run, "validate")
    trained = steps.result_of(store, "finetune", entry.model)
    holdout = store.fetch(f"validate/{validated.identity}", validated, folder, only=("holdout.parquet",))
    digests = store.fetch(f"finetune/{entry.model}", trained, folder, only=("train_digests.parquet",))
    table = pq.read_table(holdout / "holdout.parquet", columns=["text", "label", "digest"])
    seen = pq.read_table(digests / "train_digests.parquet")["digest"].combine_chunks()
    table = table.filter(pc.invert(pc.is_in(table["digest"], seen)))
    table = table.take(np.random.default_rng(SEED).permutation(table.num_rows))
    return table["text"].to_pylist(), table["label"].to_pylist()
