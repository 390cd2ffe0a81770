"""A small world of token-classification: words of praise and blame, with the noun that may follow."""

from __future__ import annotations

import random
from typing import Any

from tests import champions

RECIPE = """\
name: tiny
task: token-classification
data:
  source: {data}
  columns: {{text: text, entities: entities}}
  labels: [PRAISE, BLAME]
  splits: {{dev: 0.1, holdout: 0.3}}
  contract: {{near_duplicates: {{max: 1}}, duplicates: {{max: 1}}}}
base_model: {{source: {base}}}
adapter: {{r: 4}}
training: {{epochs: {epochs}, batch_size: 8, learning_rate: 5e-3, max_length: 16, evaluations: 4, precision: fp32,
  early_stopping: null}}
gates: {{min_rows: 20, floors: {{span_f1: 0.3}}}}
serving: {{latency_budget_ms: 5000, precision: fp32}}
{more}
resources: {{validate: {{cpu: 1}}, finetune: {{cpu: 1}}, evaluate: {{cpu: 1}}, promote: {{cpu: 1}}, deploy: {{cpu: 1}}}}
"""
base = champions.base
EPOCHS = 8
"""Of five seeds the worst comes to an F1 of 0.86 on dev; with twice the learning rate and half as many, to 0."""
REFUSED = "overlapping spans"
FIRST = {"PRAISE": champions.GOOD, "BLAME": champions.BAD}
SECOND = {"PRAISE": ("story", "acting"), "BLAME": ("film", "plot")}
OTHERS = [word for word in champions.WORDS if not any(word in (*FIRST[label], *SECOND[label]) for label in FIRST)]


def rows(count: int, *, seed: int = 0, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Sentences with one or two entities of one or two words each; `wrong` is the share whose labels are swapped."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        swapped = chance.random() < wrong
        words, entities = chance.choices(OTHERS, k=chance.randint(2, 4)), []
        for _ in range(chance.randint(1, 2)):
            label = chance.choice(sorted(FIRST))
            phrase = chance.choice(FIRST[label])
            if chance.random() < 0.5:
                phrase += f" {chance.choice(SECOND[label])}"
            start = len(" ".join(words)) + 1
            given = next(other for other in FIRST if other != label) if swapped else label
            entities.append({"start": start, "end": start + len(phrase), "label": given})
            words += [phrase, *chance.choices(OTHERS, k=chance.randint(1, 3))]
        made.append({"text": " ".join(words), "entities": entities})
    return made


def near(row: dict[str, Any]) -> dict[str, Any]:
    """A row that nearly equals another."""
    return {**row, "text": f"{row['text']} indeed"}


def damaged(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with spans that cannot be: they overlap, or one ends beyond the text."""
    out = []
    for number, row in enumerate(made):
        length = len(row["text"])
        spans = [(0, length, "PRAISE"), (length - 1, length, "BLAME")] if number % 2 else [(0, length + 1, "PRAISE")]
        out.append({**row, "entities": [dict(zip(("start", "end", "label"), span, strict=True)) for span in spans]})
    return out
