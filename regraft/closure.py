"""The code that determines a step's output: what its component imports of regraft, and what that imports in turn.

All files of the component's folder count, and all of the recipe's own task, if any code asks for it: also data, such as
templates, and programs that are copied, not imported, as those of `regraft.serving` are. From there imports within
regraft are followed, those inside functions too. To import `regraft.tasks`, which finds a task by its name, is to ask
for the recipe's own; other tasks never count, nor do `BESIDES`.

It takes 1 to 2 ms of a cached step: all files are read for their digest anyway, and imports are found in their bytes by
an expression, which takes a hundredth of the time of parsing them. A test holds it against the parser.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator

TASKS = "regraft.tasks"
PROGRAMS = "regraft.serving"

BESIDES = (
    "regraft",
    "regraft.approval",
    "regraft.digests",
    "regraft.errors",
    "regraft.fields",
    "regraft.ledger",
    "regraft.locations",
    "regraft.manifest",
    "regraft.memo",
    "regraft.names",
    "regraft.parts",
    "regraft.pipeline",
    "regraft.remote_code",
    "regraft.settings",
    "regraft.snapshot",
    "regraft.step",
    "regraft.store",
)
"""Modules that do not count and are not followed. The rule: no edit of one could change what a step puts out while the
digests of its inputs and the values of the recipe, which stand in its identity, are the same. They carry bytes, words
or addresses, read the recipe, or say who is champion. What is not named here counts: a new module does, until somebody
has decided."""

_IMPORTS = re.compile(
    rb"\n[ \t]*(?:from[ \t]+(regraft(?:\.[\w.]*)?)[ \t]+import[ \t]+(\([^)]*\)|[^\n;#]*)"
    rb"|import[ \t]+([^\n;#]*\bregraft\b[^\n;#]*))"
)
_COMMENT = re.compile(rb"#[^\n]*")


def imported(source: bytes) -> set[str]:
    """What a Python source imports of regraft: modules, and names in them that may be modules themselves."""
    names: set[str] = set()
    for module, listed, modules in _IMPORTS.findall(b"\n" + source):
        words = (word.split(maxsplit=1) for word in _COMMENT.sub(b"", listed or modules).strip(b"()").split(b","))
        firsts = [word[0].decode() for word in words if word]
        if module:
            names.add(module.decode())
            names.update(f"{module.decode()}.{name}" for name in firsts if name != "*")
        else:
            names.update(name for name in firsts if name.partition(".")[0] == "regraft")
    return names


def files(component: str, *, task: str, root: str | None = None) -> dict[str, bytes]:
    """The files that count, by their paths from the folder that packages are in.

    Args:
        component: the package of a step, such as `components.finetune`, or one module.
        task: the recipe's, such as text-classification.
        root: the folder that holds the packages; where they are imported from when left out.

    Raises:
        ModuleNotFoundError: the component or the task is not installed.
    """
    own = f"{TASKS}.{task.replace('-', '_')}"
    counted: dict[str, bytes] = {}
    waiting, seen = [component], set(BESIDES)
    while waiting:
        name = waiting.pop()
        if name.startswith(f"{own}."):
            name = own
        if name in seen or (name.startswith(f"{TASKS}.") and name != own):
            continue
        seen.add(name)
        whole = name in (component, own, PROGRAMS)
        paths = _paths(name, _place(name, root), whole=whole)
        if whole and not paths:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        for path, file in paths.items():
            with open(file, "rb") as content:
                counted[path] = content.read()
            if path.endswith(".py"):
                waiting += imported(counted[path])
        if name == TASKS:
            waiting.append(own)
        if name.startswith("regraft."):
            waiting.append(name.rpartition(".")[0])  # a package's own code runs as well
    return counted


def digest(component: str, *, task: str, root: str | None = None) -> str:
    """SHA-256 over `files`, paths and contents."""
    total = hashlib.sha256()
    for path, content in sorted(files(component, task=task, root=root).items()):
        total.update(f"{path} {len(content)}\n".encode() + content)
    return total.hexdigest()


def _place(name: str, root: str | None) -> str:
    """Where a module is, without the suffix of a file."""
    if root is None and name.partition(".")[0] != "regraft":
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec.origin.removesuffix("/__init__.py").removesuffix(".py")
    return os.path.join(root or os.path.dirname(os.path.dirname(__file__)), *name.split("."))


def _paths(name: str, place: str, *, whole: bool) -> dict[str, str]:
    """The files of a module, of a whole package, or of a package's own code and data; none where it does not exist."""
    stem = name.replace(".", "/")
    if whole and os.path.isdir(place):
        chosen = [*_below(place)]
    elif os.path.isfile(f"{place}/__init__.py"):
        chosen = [f"{place}/__init__.py", *_below(place, code=False)]
    else:
        return {f"{stem}.py": f"{place}.py"} if os.path.isfile(f"{place}.py") else {}
    return {f"{stem}/{os.path.relpath(file, place).replace(os.sep, '/')}": file for file in chosen}


def _below(folder: str, *, code: bool = True) -> Iterator[str]:
    """All files of a folder but compiled and hidden ones; without `code`, none of its modules and packages."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__" or entry.name.startswith("."):
                continue
            if not entry.is_dir():
                if code or not entry.name.endswith(".py"):
                    yield entry.path
            elif code or not os.path.exists(os.path.join(entry.path, "__init__.py")):
                yield from _below(entry.path)
