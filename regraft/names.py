"""Names that others wrote: of files in a manifest, of keys in a bucket, of steps and digests in a pointer.

Whoever can write to a store or a bucket chooses them, and they are joined to folders of the machine that reads. So
what a name may be is decided here, for every place that joins one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from regraft.errors import BadInput

_NEVER = re.compile(r"[\\\x00-\x1f\x7f]|\A[A-Za-z]:")
"""What separates folders on other systems, what ends a name in C, what a terminal obeys, and drives."""

_RESULT = re.compile(r"([a-z]+)/([0-9a-f]{64})(/checkpoints/[0-9]{8})?")
ATTEMPT = re.compile(r"attempt-[0-9a-f]{12}")


def inside(name: str, *, where: str) -> str:
    """A name as it is, where it stays in the folder that it is joined to, whatever the system.

    Args:
        where: what has the name, for the message.

    Raises:
        BadInput: it could leave the folder: it is absolute, or has a part that is empty, `.` or `..`, or a backslash.
    """
    if _NEVER.search(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise _leaves(f"the name {name[:200]!r}", where)
    return name


def tree(names: Iterable[str], *, where: str) -> None:
    """Checks the names of a folder's files. Raises BadInput as `inside`, and where one is a folder of another."""
    known = {inside(name, where=where) for name in names}
    for name in known:
        if within := known.intersection(map(str, PurePosixPath(name).parents)):
            raise BadInput(
                f"the name {name[:200]!r} lies within {min(within)[:200]!r}, which is a file",
                where=where,
                state="nothing was read or written there",
                next="find out who wrote that name: regraft writes none like it; then remove what has it",
            )


def joined(folder: str | Path, name: str, *, where: str) -> Path:
    """Where a name lies in a folder of this machine. Raises BadInput as `inside`, and where a link leads out of it."""
    path = Path(folder, inside(name, where=where))
    real, root = os.path.realpath(path), os.path.realpath(folder)
    if not real.startswith(f"{root.rstrip('/')}/"):
        raise _leaves(f"the name {name[:200]!r} is a link, or lies behind one, that", where)
    return path


def result(prefix: str, *, where: str) -> tuple[str, str]:
    """The step and the identity of a place in a store where a step's result, or a checkpoint, may stand.

    Others may not: what stands in a folder of files that a step put out is not a result, whatever it says of itself.

    Raises:
        BadInput: no result stands at such a place.
    """
    place = _RESULT.fullmatch(prefix)
    if place is None:
        raise BadInput(
            f"{prefix[:200]!r} is no place of a result; expected STEP/IDENTITY, the identity of 64 hexadecimal digits",
            where=where,
            state="nothing was read there",
            next="find out who wrote that identity: regraft writes none like it; then remove what has it",
        )
    return place[1], place[2]


def _leaves(what: str, where: str) -> BadInput:
    return BadInput(
        f"{what} leaves its folder; expected parts joined by /, none of them empty, . or .., and no backslash",
        where=where,
        state="nothing was read or written there",
        next="find out who wrote that name: regraft writes none like it; then remove what has it",
    )
