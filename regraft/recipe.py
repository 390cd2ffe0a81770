"""The recipe: the YAML file that declares one model. Reading one finds all its errors at once, each with its line."""

from __future__ import annotations

import os
import reprlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from regraft import ceilings, remote_code, tasks, yaml_marks
from regraft.errors import BadInput
from regraft.fields import is_location
from regraft.locations import champion
from regraft.parts import Part, Recipe

LARGEST = 65_536
"""Bytes of a recipe: it travels to pods as one argument or variable, of which Linux takes twice that."""


def load(path: str | Path, *, environment: Mapping[str, str] | None = os.environ) -> Recipe:
    """Reads a recipe file.

    Args:
        environment: as for `parse`.

    Raises:
        BadInput: the file is missing or not YAML, or does not hold; all errors are in the one message.
    """
    return parse(decode(read(path), where=str(path)), where=str(path), environment=environment)


def read(path: str | Path) -> bytes:
    """The content of a recipe file. Raises BadInput where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the recipe: {error.strerror}", where=str(path), next="ls dags/recipes") from error


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


def parse(
    text: str, *, where: str = "recipe", next: str | None = None, environment: Mapping[str, str] | None = os.environ
) -> Recipe:
    """Parses the text of a recipe.

    Args:
        where: names it in errors: its path, or what else it is.
        next: what to do after an error, where `where` is no path.
        environment: says what a recipe may ask for (regraft.ceilings, regraft.remote_code); None: this one asks for
            nothing, it is of a model that is there.

    Raises:
        BadInput: with every error found.
    """
    root, data, problems = yaml_marks.read(text, where=where, next=next or _next(where))
    if not isinstance(data, dict):
        raise BadInput("a recipe is a YAML mapping that starts with `name:`", where=where, next=next or _next(where))
    task = data.get("task")
    if isinstance(task, str) and task in tasks.names():
        recipe, wrong = _read(root, data, tasks.of(task).Recipe)
    else:
        recipe, wrong = None, _whatever_the_task(root, data)
    if recipe is not None and environment is not None:
        over = [*ceilings.exceeded(recipe, environment)]
        if why := remote_code.refused(recipe.base_model, environment):
            over.append((("base_model", "remote_code"), why))
        if why := _no_base(recipe):
            over.append((("base_model", "source"), why))
        if recipe.schedule and champion(recipe.schedule.asset or "") == recipe.name:
            over.append((("schedule", "asset"), "each champion of this recipe would start it anew, without end"))
        wrong = [(yaml_marks.line(root, key), f"{'.'.join(key)}: {said}") for key, said in over]
    if recipe is None or problems or wrong:
        raise yaml_marks.refused([*problems, *wrong], where=where, next=next or _next(where))
    return recipe


def _no_base(recipe: Recipe) -> str | None:
    """Why a champion that a recipe names can never be its base model; None where it may, or the recipe names none."""
    source, task = recipe.base_model.source, recipe.task
    if (name := champion(source)) is None:
        return None
    if name == recipe.name:
        return f"{source} is this recipe's own; a model cannot be the base of itself"
    if hasattr(tasks.of(task), "merged"):
        return None
    able = [other for other in tasks.names() if hasattr(tasks.of(other), "merged")]
    return f"{source} is no base model for {task}; champions are base models for {', '.join(able)}"


def _read(
    root: yaml.Node | None, data: dict[str, Any], schema: type[Recipe]
) -> tuple[Recipe | None, list[yaml_marks.Problem]]:
    try:
        return schema.model_validate(data), []
    except ValidationError as error:
        return None, yaml_marks.explain(root, error, schema)


def _whatever_the_task(root: yaml.Node | None, data: dict[str, Any]) -> list[yaml_marks.Problem]:
    """What is wrong with a recipe of no known task: that, and what would be wrong in any."""
    schemas = {name: tasks.of(name).Recipe for name in tasks.names()}
    task = data.get("task")
    each = [_read(root, {**data, "task": name}, schema)[1] for name, schema in schemas.items()]
    known = f"the tasks are {', '.join(schemas)}{yaml_marks.did_you_mean(str(task), schemas)}"
    said = f"task: {reprlib.repr(task)} is none; {known}" if "task" in data else f"task: missing; {known}"
    return [
        (yaml_marks.line(root, ("task",)), said),
        *(problem for problem in each[0] if all(problem in one for one in each)),
    ]


def _next(where: str) -> str:
    return f"regraft check {shlex.quote(where)}  (after mending it; editors complete from regraft/recipe.schema.json)"


def locations(recipe: Recipe) -> dict[str, str]:
    """The locations that a recipe names, by their keys: variables of the environment are not put in yet."""
    return {".".join(key): value for key, value in _located(recipe) if not (champion(value) and key[0] == "base_model")}


def _located(part: Part, *key: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The values of a part, and of its parts, that are `fields.Location`."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, str) and is_location(field.rebuild_annotation()):
            yield (*key, name), value
        for more, each in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(each, Part):
                yield from _located(each, *key, name, *([more] if more else []))


def json_schema() -> dict[str, Any]:
    """The recipe's JSON schema, committed as regraft/recipe.schema.json: one alternative a task."""
    recipes = [tasks.of(name).Recipe for name in tasks.names()]
    references, schema = models_json_schema([(recipe, "validation") for recipe in recipes])
    for part in dict.fromkeys(part for recipe in recipes for part in _parts(recipe)):
        qualified = f"{part.__module__}.{part.__name__}".replace(".", "__")
        described = schema["$defs"].get(part.__name__) or schema["$defs"][qualified]
        for field, said in _docstrings(part).items():
            described["properties"][field]["description"] = said
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "oneOf": [references[recipe, "validation"] for recipe in recipes],
    }


def _parts(annotation: Any) -> Iterator[type[Part]]:
    """The parts of a recipe that an annotation names, and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _parts(field.annotation)
    for argument in get_args(annotation):
        yield from _parts(argument)


def _docstrings(part: type[Part]) -> dict[str, str]:
    """What stands below each field, in the class or one that it narrows.

    Only for the schema: pydantic's own use_attribute_docstrings reads the source in every process that starts.
    """
    import ast
    import inspect
    import itertools

    docstrings: dict[str, str] = {}
    for narrowed in reversed([kind for kind in part.__mro__ if issubclass(kind, Part)]):
        (tree,) = ast.parse(inspect.getsource(narrowed)).body
        assert isinstance(tree, ast.ClassDef)  # noqa: S101  as Part is
        for field, below in itertools.pairwise(tree.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[name] = inspect.cleandoc(text)
    return docstrings
