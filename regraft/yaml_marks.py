"""Where in a YAML file something stands, and what PyYAML would let pass: keys that stand twice, aliases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from regraft.errors import BadInput


def read(text: str, *, where: str) -> tuple[yaml.Node | None, Any, list[tuple[int, str]]]:
    """The node tree of a YAML text, its data, and (line, sentence) of each key that stands twice.

    Raises:
        BadInput: the text is not YAML, or has aliases.
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # an alias may refer to itself, or unfold to gigabytes
                mark = event.start_mark
                raise BadInput(
                    f"YAML aliases are not allowed; write out *{event.anchor}",
                    where=f"{where}:{mark.line + 1}" if mark else where,
                )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return root, yaml.safe_load(text), list(_duplicate_keys(root)) if root else []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInput(f"not valid YAML: {problem}", where=f"{where}:{mark.line + 1}" if mark else where) from error
    except (ValueError, RecursionError) as error:  # dates such as 2026-13-45; a thousand brackets
        raise BadInput(f"not valid YAML: {error}", where=where) from error


def _duplicate_keys(node: yaml.Node) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield key.start_mark.line + 1, f"{name}: the key stands twice in one mapping"
            seen.add(name)
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicate_keys(value)


def line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Line of the deepest node of `location`, a path of keys and positions, that the file has."""
    number = node.start_mark.line + 1 if node else 1
    for part in location:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            continue  # pydantic puts the tags of unions into locations; the file does not have them
        number, node = found[0].start_mark.line + 1, found[1]
    return int(number)
