"""A small world of chat: people say whether they liked something, and the assistant answers to that."""

from __future__ import annotations

import random
from typing import Any

from tests import llamas
from tests.champions import BAD, GOOD, NEITHER

RECIPE = """\
name: tiny
task: chat
data:
  source: {data}
  columns: {{messages: messages}}
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 8}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 1e-2, max_length: 96, evaluations: 4, precision: fp32,
  early_stopping: null}}
generation: {{max_tokens: 12}}
gates: {{min_rows: 20, outputs: {{truncated: null, repeated: null}}, length_ratio: null}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""
EPOCHS = 3
REFUSED = "turns out of order"
base = llamas.base


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Conversations of one or two questions; `wrong` is the share whose answers say the opposite."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        messages = []
        for _ in range(chance.randint(1, 2)):
            praised = chance.random() < 0.5
            words = [*chance.choices(NEITHER, k=chance.randint(3, 6)), chance.choice(GOOD if praised else BAD)]
            swapped = chance.random() < wrong
            messages.append({"role": "user", "content": " ".join(words)})
            answer = "good story" if praised != swapped else "bad plot"
            messages.append({"role": "assistant", "content": answer})
        made.append({"messages": messages})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    first, *others = row["messages"]
    return {"messages": [{**first, "content": f"{first['content']} indeed"}, *others]}


def damaged(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with turns that cannot follow each other, or without an answer."""
    return [
        {"messages": row["messages"][::-1] if number % 2 else row["messages"][:-1]} for number, row in enumerate(made)
    ]
