"""The most that a recipe may ask for, which whoever runs regraft says in REGRAFT_CEILINGS: recipes are many people's.

What a recipe leaves out has regraft's own defaults, and counts as if it were written there, but for `resources`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.errors import BadInput
from regraft.parts import Recipe
from regraft.yaml_marks import did_you_mean

NAME = "REGRAFT_CEILINGS"
KEYS = {
    "cpu": "resources.*.cpu",
    "memory": "resources.*.memory",
    "gpu": "resources.*.gpu",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "gradient_accumulation": "training.gradient_accumulation",
    "max_length": "training.max_length",
    "evaluations": "training.evaluations",
    "r": "adapter.r",
    "labels": "data.labels",
    "characters": "data.contract.characters.max",
    "instances": "serving.instances",
    "threads": "serving.threads",
    "max_batch_size": "serving.max_batch_size",
    "queue_delay_ms": "serving.queue_delay_ms",
}
"""The keys of a recipe by the names of their ceilings; `*` is any step."""
_EXAMPLE = "export REGRAFT_CEILINGS=memory=64Gi,cpu=16,gpu=1,instances=8,max_length=8192,epochs=100"


def exceeded(declared: Recipe, environment: Mapping[str, str] = os.environ) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys of a recipe that ask for more than is allowed, each with a sentence. Raises BadInput."""
    for name, most in _read(environment.get(NAME, "")).items():
        for location, value in _values(declared, tuple(KEYS[name].split("."))):
            if _number(value) > _number(most):
                written = f"{len(value)} of them" if isinstance(value, tuple) else f"{value}"
                yield location, f"{written}; whoever runs regraft allows at most {most} ({NAME})"


def _read(text: str) -> dict[str, str]:
    """The ceilings by their names. Raises BadInput."""
    ceilings: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in KEYS:
            known = f"they are {', '.join(KEYS)}{did_you_mean(name, KEYS)}"
            raise BadInput(f"{name!r} is no ceiling; {known}", where=NAME, next=_EXAMPLE)
        kind = r"[1-9][0-9]{0,6}(Mi|Gi)" if name == "memory" else r"[0-9]{1,9}(\.[0-9]{1,3})?"
        if not re.fullmatch(kind, value):
            such = "a size such as 64Gi" if name == "memory" else "a number"
            raise BadInput(f"{item!r}: {name} takes {such}", where=NAME, next=_EXAMPLE)
        if name in ceilings:
            raise BadInput(f"names {name} twice", where=NAME, next=_EXAMPLE)
        ceilings[name] = value
    return ceilings


def _values(part: Any, keys: tuple[str, ...], location: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Where the keys lead in a recipe, and what stands there; nothing where a task has no such key."""
    if not keys:
        yield location, part
    elif keys[0] == "*":
        for key, value in part.items():
            yield from _values(value, keys[1:], (*location, key))
    elif hasattr(part, keys[0]):
        yield from _values(getattr(part, keys[0]), keys[1:], (*location, keys[0]))


def _number(value: Any) -> float:
    """What is compared: a size in MiB, a length, or the number."""
    if isinstance(value, tuple):
        return len(value)
    if isinstance(value, str) and value.endswith("i"):
        return float(value[:-2]) * (1024 if value.endswith("Gi") else 1)
    return float(value)
