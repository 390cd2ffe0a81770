"""A small world of text-classification: sentences with one telling word each."""

from __future__ import annotations

import random
from typing import Any

from tests import champions
from tests.champions import BAD, GOOD, NEITHER

RECIPE = """\
name: tiny
task: text-classification
data:
  source: {data}
  columns: {{text: text, label: label}}
  labels: [negative, positive]
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 4}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 1e-2, max_length: 16, evaluations: 4, precision: fp32}}
gates: {{min_rows: 20, floors: {{accuracy: 0.3}}}}
serving: {{latency_budget_ms: 5000, precision: fp32}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""


base = champions.base
EPOCHS = 4
REFUSED = "unknown label"


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, str]]:
    """Sentences with one telling word each; `wrong` is the share whose label is flipped."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        positive = chance.random() < 0.5
        words = chance.choices(NEITHER, k=chance.randint(4, 9))
        words.insert(chance.randrange(len(words)), chance.choice(GOOD if positive else BAD))
        label = positive != (chance.random() < wrong)
        made.append({"text": " ".join(words), "label": "positive" if label else "negative"})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    return {**row, "text": f"{row['text']} indeed"}


def damaged(made: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows with labels that nobody declared."""
    return [{**row, "label": "neutral"} for row in made]
