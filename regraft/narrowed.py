"""A recipe of which a step reads no more than it declares, so that its identity cannot lack a field that it goes by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from regraft.parts import Recipe


class NotDeclared(Exception):
    """A bug: code reads a field of the recipe that its step does not declare."""


@dataclass(frozen=True, slots=True, repr=False)
class Narrowed:
    """A part of a recipe that gives the declared fields, and narrowed parts on the way to them."""

    _part: Any
    _fields: tuple[str, ...]
    """Declared fields below this part, as dotted paths."""
    _reader: str
    _path: str = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python, jinja2 and others ask any object for
            raise AttributeError(name)
        if name in self._fields:
            return getattr(self._part, name)
        below = tuple(field.removeprefix(f"{name}.") for field in self._fields if field.startswith(f"{name}."))
        if not below:
            raise NotDeclared(
                f"{self._reader} reads {self._path}{name}, which regraft/pipeline.py does not declare for it"
            )
        part = getattr(self._part, name)
        narrow = isinstance(part, BaseModel | Narrowed)
        return Narrowed(part, below, self._reader, f"{self._path}{name}.") if narrow else part


def to(fields: Iterable[str], recipe: Recipe, *, reader: str) -> Recipe:
    """The recipe with only these fields, given as dotted paths.

    Args:
        reader: who is named when another field is read.
    """
    return cast(Recipe, Narrowed(recipe, tuple(fields), reader))
