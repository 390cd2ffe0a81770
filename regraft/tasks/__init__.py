"""One file a task: encoding, model head, metrics, decoding, serving signature.

A task module has these functions, and steps know no more of a task than them:

- `for_training(recipe, folder)`: base model with a fresh adapter and head, and its tokenizer.
- `load(recipe, model, folder)`: a finetune's model for inference.
- `probabilities(classifier, texts)`: its answers.
- `metrics(labels, probabilities, names)`: how good they are.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def of(task: str) -> ModuleType:
    """The module of a task, such as text-classification."""
    return importlib.import_module(f"regraft.tasks.{task.replace('-', '_')}")
