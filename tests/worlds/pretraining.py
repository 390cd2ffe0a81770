"""A small world of pretraining: every third word of a document is the same, which a model learns to expect."""

from __future__ import annotations

import random
from typing import Any

from tests import llamas
from tests.champions import WORDS

RECIPE = """\
name: tiny
task: pretraining
data:
  source: {data}
  columns: {{text: text}}
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 8}}
training: {{epochs: {epochs}, batch_size: 8, learning_rate: 1e-2, max_length: 32, evaluations: 4, precision: fp32,
  early_stopping: null}}
gates: {{min_rows: 20, forgetting: {{anchor: {data}, max_drop: 0.5}}}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}}}
"""
EPOCHS = 3
REFUSED = "no letter in it"
OTHERS = [word for word in WORDS if word != "the"]
base = llamas.base


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Documents in which every third word is the same; `wrong` is the share of those that have no order at all."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        words = chance.choices(OTHERS, k=3 * chance.randint(3, 5))
        if chance.random() >= wrong:
            words[::3] = ["the"] * (len(words) // 3)
        made.append({"text": " ".join(words)})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    return {"text": f"{row['text']} indeed"}


def damaged(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row without a word: the numbers of a table."""
    return [{"text": f"{number} | {3 * number}.5 | {7 * number} %"} for number, _ in enumerate(made)]
