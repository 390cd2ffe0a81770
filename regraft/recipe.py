"""The recipe: the YAML file that declares one model. Reading one finds all its errors at once, each with its line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from regraft import parts, yaml_marks
from regraft.errors import BadInput
from regraft.fields import (
    Description,
    Owner,
)
from regraft.parts import BaseModelSource, Data, Gates, Lora, Part, Resources, Schedule, Serving, StepName, Training

LARGEST = 65_536
"""Bytes of a recipe: it travels to pods as one argument or variable, of which Linux takes twice that."""


class Recipe(Part):
    """One model, declared once."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name of the registered model, of the served model and of the folder in the store: a DNS label."""
    task: Literal["text-classification"]
    description: Description = ""
    owner: Owner = "regraft"
    data: Data
    base_model: BaseModelSource
    adapter: Lora = Lora()
    training: Training = Training()
    gates: Gates = Gates()
    promotion: Literal["automatic", "approval"] = "automatic"
    """approval stops with the challenger registered, until `regraft promote NAME --version N`."""
    serving: Serving = Serving()
    schedule: Schedule | None = None
    resources: dict[StepName, Resources] = {}  # noqa: RUF012 - pydantic copies it


def load(path: str | Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        BadInput: the file is missing or not YAML, or breaks the schema; all errors are in the one message.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the recipe: {error.strerror}", where=str(path), next="ls dags/recipes") from error
    return parse(decode(content, where=str(path)), where=str(path))


def decode(content: bytes, *, where: str) -> str:
    """The text of a recipe file. Raises BadInput where it is not UTF-8, or does not fit into the pods of steps."""
    if len(content) > LARGEST:
        raise BadInput(
            f"a recipe of {len(content)} bytes; at most {LARGEST} fit into the pods of steps",
            where=where,
            next=_next(where),
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(
            f"line {line}: not UTF-8 text: {error.reason} 0x{content[error.start]:02x}; save the file as UTF-8",
            where=where,
            next=_next(where),
        ) from error


def parse(text: str, *, where: str = "recipe", next: str | None = None) -> Recipe:
    """Parses the text of a recipe.

    Args:
        where: names it in errors: its path, or what else it is.
        next: what to do after an error, where `where` is no path.

    Raises:
        BadInput: with every error found.
    """
    root, data, problems = yaml_marks.read(text, where=where, next=next or _next(where))
    if not isinstance(data, dict):
        raise BadInput("a recipe is a YAML mapping that starts with `name:`", where=where, next=next or _next(where))
    recipe = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += yaml_marks.explain(root, error, Recipe)
    if recipe is None or problems:
        raise yaml_marks.refused(problems, where=where, next=next or _next(where))
    return recipe


def _next(where: str) -> str:
    return (
        f"regraft validate {shlex.quote(where)}  (after mending it; editors complete from regraft/recipe.schema.json)"
    )


def locations(recipe: Recipe) -> dict[str, str]:
    """The locations that a recipe names, by their keys: variables of the environment are not put in yet."""
    named = {
        "data.source": recipe.data.source,
        "base_model.source": recipe.base_model.source,
        "gates.forgetting.anchor": recipe.gates.forgetting and recipe.gates.forgetting.anchor,
        "schedule.asset": recipe.schedule and recipe.schedule.asset,
    }
    return {key: location for key, location in named.items() if location}


def json_schema() -> dict[str, Any]:
    """The recipe's JSON schema, committed as regraft/recipe.schema.json."""
    schema, said_of = (
        Recipe.model_json_schema(mode="validation"),
        {**_docstrings(parts), **_docstrings(sys.modules[__name__])},
    )
    for name, part in [("Recipe", schema), *schema["$defs"].items()]:
        for field, said in said_of.get(name, {}).items():
            part["properties"][field]["description"] = said
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """What stands below each field, by class and field.

    Only for the schema: pydantic's own use_attribute_docstrings reads the source in every process that starts.
    """
    import ast
    import inspect
    import itertools

    tree = ast.parse(inspect.getsource(module))
    found: dict[str, dict[str, str]] = {}
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, below in itertools.pairwise(part.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found.setdefault(part.name, {})[name] = inspect.cleandoc(text)
    return found
