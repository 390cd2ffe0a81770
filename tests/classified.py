"""Rows and answers of text classification as tables, made of arrays of label indices and probabilities."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from regraft import recipe as recipes
from regraft.tasks.text_classification.recipe import Gates, Recipe

RECIPE = """\
name: reviews
task: text-classification
data: {{source: nowhere, columns: {{text: text, label: label}}, labels: {labels}}}
base_model: {{source: nowhere}}
"""


def recipe(classes: int = 2, gates: Gates | None = None) -> Recipe:
    """A recipe with that many labels: l0, l1 and so on."""
    parsed = recipes.parse(RECIPE.format(labels=[f"l{i}" for i in range(classes)]))
    assert isinstance(parsed, Recipe)
    return parsed.model_copy(update={"gates": gates}) if gates else parsed


def rows(labels: Any, **more: Any) -> pa.Table:
    """Frozen rows with these label indices."""
    return pa.table({"label": pa.array(labels, pa.int32()), **more})


def answers(probabilities: Any) -> pa.Table:
    """What a model says of rows: probabilities, shape (rows, labels)."""
    return pa.table({f"p{i}": probabilities[:, i] for i in range(probabilities.shape[1])})
