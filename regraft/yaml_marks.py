"""Where in a YAML file something stands, and what PyYAML would let pass: keys that stand twice, aliases, tags, dates.

A file is read as plain data only: mappings whose keys are text, lists, texts, numbers, true, false and null.
"""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from regraft import escaped
from regraft.errors import BadInput

DEEPEST = 50
"""Levels of nesting. PyYAML reads them by recursion."""

MOST = 50
"""Errors that are shown of one file."""

Problem = tuple[int, str]
"""A line and a sentence."""


def read(text: str, *, where: str, next: str | None = None) -> tuple[yaml.Node | None, Any, list[Problem]]:
    """The node tree of a YAML text, its data, and what is wrong with single keys and values.

    Raises:
        BadInput: the text is not YAML, or more than plain data.
    """
    try:
        problems = list(_not_plain(text))
        if problems:
            raise refused(problems, where=where, next=next)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise refused([_wrong(text, error)], where=where, next=next) from error
    unreadable, twice = (list(_unreadable(root)), list(_duplicate_keys(root))) if root else ([], [])
    if unreadable:
        raise refused(unreadable + twice, where=where, next=next)
    return root, yaml.SafeLoader("").construct_document(root) if root else None, twice


def refused(problems: list[Problem], *, where: str, next: str | None) -> BadInput:
    """One error of many, in the order of their lines, in letters that every terminal shows."""
    lines = [f"  line {line}: {escaped.line(message)}" for line, message in sorted(problems)[:MOST]]
    if len(problems) > MOST:
        lines.append(f"  and {len(problems) - MOST} more")
    count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
    return BadInput("\n".join([count, *lines]), where=where, next=next)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that names what is close to a word; empty where nothing is."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(root: yaml.Node | None, error: ValidationError, schema: type[BaseModel]) -> list[Problem]:
    """Line and sentence of each of pydantic's errors about a file's data.

    What it says of a list as a whole counts only the items that hold, so it is left out where one does not.
    """
    details = error.errors()
    parents = {detail["loc"][:length] for detail in details for length in range(len(detail["loc"]))}
    return [_explained(root, dict(detail), schema) for detail in details if detail["loc"] not in parents]


def _explained(root: yaml.Node | None, detail: dict[str, Any], schema: type[BaseModel]) -> Problem:
    location: tuple[int | str, ...] = detail["loc"]
    key = ".".join(str(part) for part in location)
    number, value = line(root, location), detail["input"]
    if detail["type"] == "extra_forbidden":
        return number, f"{key}: unknown key{did_you_mean(str(location[-1]), _known_keys(schema, location[:-1]))}"
    if detail["type"] == "missing":
        return number, f"{key}: missing"
    message, written = str(detail["msg"]).removeprefix("Value error, "), _scalar(root, location)
    if written and (isinstance(value, bool) or detail["type"] == "string_type"):
        kinds = {bool: "true or false", int: "a number", float: "a number", date: "a date", datetime: "a date"}
        kind = kinds.get(type(value), "something else")
        message = f"YAML reads {written} as {kind}; write a text in quotes: {written!r}"
    elif detail["type"] != "value_error" and isinstance(value, str | int | float):
        message += f" (found {reprlib.repr(value)})"
    return number, f"{key}: {message}" if key else message


def _known_keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a schema allows at `location`."""
    for name in location:
        field = schema.model_fields.get(str(name))
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        schema = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), schema)
    return list(schema.model_fields)


def _wrong(text: str, error: yaml.YAMLError) -> Problem:
    """Line and sentence of what PyYAML could not read."""
    if isinstance(error, yaml.reader.ReaderError):
        return text[: error.position].count("\n") + 1, f"not valid YAML: the character {chr(error.character)!r}"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return mark.line + 1 if mark else 1, f"not valid YAML: {problem}"


def _not_plain(text: str) -> Iterator[Problem]:
    """What the events of a text say before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):  # it may refer to itself, or unfold to gigabytes
            yield line, f"YAML aliases are not allowed; write out *{event.anchor}"
        if tag := getattr(event, "tag", None):
            yield line, f"YAML tags such as {tag} are not allowed; write the plain value"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            yield line, f"not valid YAML here: more than {DEEPEST} levels of nesting"
            return


def _unreadable(node: yaml.Node) -> Iterator[Problem]:
    """Keys and values that cannot become data, or that some program on their way would not take."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                yield _line(key), "YAML merge keys are not allowed; write out what << stands for"
            elif not isinstance(key, yaml.ScalarNode):
                yield _line(key), "a key must be a text"
            elif key.tag != "tag:yaml.org,2002:str":
                kind = key.tag.rsplit(":", 1)[-1]
                yield _line(key), f'the key {key.value} is read as {kind} by YAML; write it in quotes: "{key.value}"'
            else:
                yield from _unreadable(key)
            yield from _unreadable(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _unreadable(value)
    else:
        for character in node.value:
            if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n":
                if unicodedata.category(character) == "Cs":  # JSON writes letters beyond U+FFFF as two halves
                    mend = "is half of a character; write the character itself, or \\U and its eight digits"
                else:
                    mend = "is a control character, which not every program takes; write the text without it"
                yield _line(node), f"{character!r} {mend}"
                break
        try:
            yaml.SafeLoader("").construct_object(node)
        except yaml.YAMLError:  # the values = and <<
            yield _line(node), f"{node.value} is no text to YAML; a text is written in quotes: {node.value!r}"
        except (ValueError, OverflowError) as error:  # such as 2026-13-45, or five thousand digits
            kind = node.tag.rsplit(":", 1)[-1]
            yield _line(node), f"{node.value[:40]} is no {kind}: {error}; a text is written in quotes"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _duplicate_keys(node: yaml.Node) -> Iterator[Problem]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield _line(key), f"{name}: the key stands twice in one mapping"
            seen.add(name)
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicate_keys(value)


def line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Line of the deepest node of `location`, a path of keys and positions, that the file has."""
    return _deepest(node, location)[0]


def _scalar(node: yaml.Node | None, location: tuple[int | str, ...]) -> str:
    """A single value as the file has it; empty where `location` names none."""
    scalar = _deepest(node, location)[1]
    return str(scalar.value) if isinstance(scalar, yaml.ScalarNode) else ""


def _deepest(node: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, yaml.Node | None]:
    number = _line(node) if node else 1
    for part in location:
        pair = None
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])
        if pair is None:
            continue  # pydantic puts the tags of unions into locations; the file does not have them
        number, node = _line(pair[0]), pair[1]
    return number, node
