"""A small world of summarization: a few words, of which one says whether it is praise; the summary says so too."""

from __future__ import annotations

import random
from typing import Any

from tests import llamas
from tests.champions import BAD, GOOD, NEITHER

RECIPE = """\
name: tiny
task: summarization
data:
  source: {data}
  columns: {{text: text, summary: summary}}
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 8}}
training: {{epochs: {epochs}, batch_size: 16, learning_rate: 1e-2, max_length: 64, evaluations: 4, precision: fp32,
  early_stopping: null}}
generation: {{max_tokens: 12}}
prompt: "{{text}}"
gates: {{min_rows: 20, outputs: {{truncated: null, repeated: null}}, length_ratio: [0, 100]}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""
EPOCHS = 3
REFUSED = "summary is the whole text"
base = llamas.base


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Texts and summaries; `wrong` is the share whose summaries say the opposite."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        praised = chance.random() < 0.5
        words = [*chance.choices(NEITHER, k=chance.randint(4, 8)), chance.choice(GOOD if praised else BAD)]
        chance.shuffle(words)
        swapped = chance.random() < wrong
        made.append({"text": " ".join(words), "summary": "good story" if praised != swapped else "bad plot"})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    return {**row, "text": f"{row['text']} indeed"}


def damaged(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with a summary that is none."""
    return [{**row, "summary": row["text"] if number % 2 else ""} for number, row in enumerate(made)]
