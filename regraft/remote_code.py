"""Whose Python code a base model may run: that of the commits that the operator lists in REGRAFT_REMOTE_CODE."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regraft import settings
from regraft.errors import BadInput
from regraft.parts import BaseModelSource


def refused(base: BaseModelSource, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why the code that a recipe asks for may not run; None where it may, or none is asked for. Raises BadInput."""
    asked, listed = f"{base.source.removeprefix('hf://')}@{base.remote_code}", settings.remote_code(environment)
    if base.remote_code is None or asked in listed:
        return None
    return f"{asked}; whoever runs regraft allows the code of {', '.join(listed) or 'none'} ({settings.REMOTE_CODE})"


def trusted(base: BaseModelSource, folder: Path) -> bool:
    """Whether code of the base model runs when it is loaded.

    Args:
        folder: the files that it is loaded from.

    Raises:
        BadInput: its code is not listed, also where it once was; or a file names code that lies elsewhere, which no
            commit pins.
    """
    if base.remote_code is None:
        return False
    if why := refused(base):
        raise BadInput(
            f"the base model's own code may not run: {why}",
            where="base_model.remote_code",
            next=f"have it read, and listed: export {settings.REMOTE_CODE}=OWNER/NAME@COMMIT",
        )
    files = sorted(folder.glob("*.json"))
    if not files:
        raise BadInput("its files are not there yet, so nobody knows whose code it would run", where=base.source)
    for file in files:
        try:
            named = list(_classes(json.loads(file.read_bytes())))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file.name} is not JSON: {str(error)[:200]}", where=base.source) from error
        for name in named:
            if not re.fullmatch(r"\w+\.\w+", name):
                raise BadInput(
                    f"{file.name} names code that is not the commit's own: {name[:200]!r}",
                    where=base.source,
                    next="take a base model that has all its code in one repository, as MODULE.CLASS",
                )
    return True


def _classes(document: Any, *, listed: bool = False) -> Iterator[str]:
    """What stands below each `auto_map` of a document: the classes that transformers would import."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _classes(value, listed=listed or key == "auto_map")
    elif isinstance(document, list):
        for value in document:
            yield from _classes(value, listed=listed)
    elif listed and document is not None:
        yield str(document)
