"""A small world of preferences: whatever is asked, people prefer the answer that praises."""

from __future__ import annotations

import random
from typing import Any

from tests import llamas
from tests.champions import BAD, GOOD, NEITHER

RECIPE = """\
name: tiny
task: preferences
data:
  source: {data}
  columns: {{prompt: prompt, chosen: chosen, rejected: rejected}}
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 8}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 5e-3, max_length: 64, evaluations: 4, precision: fp32,
  early_stopping: null}}
generation: {{max_tokens: 12}}
gates: {{min_rows: 20}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}}}
"""
EPOCHS = 2
REFUSED = "both answers are the same"
base = llamas.base


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Questions with two answers; `wrong` is the share of those whose answers are swapped."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        prompt = " ".join(chance.choices(NEITHER, k=chance.randint(4, 8)))
        praise, blame = (f"{chance.choice(words)} {chance.choice(NEITHER)}" for words in (GOOD, BAD))
        swapped = chance.random() < wrong
        chosen, rejected = (blame, praise) if swapped else (praise, blame)
        made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    return {**row, "prompt": f"{row['prompt']} indeed"}


def damaged(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with answers of which none can be preferred."""
    return [{**row, "rejected": row["chosen"] if number % 2 else ""} for number, row in enumerate(made)]
