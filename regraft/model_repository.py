"""What a model repository says of a model, for deploy, which writes it, and for whoever only reads.

Its layout, and the one who writes it: components/deploy/repository.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def config(folder: Path) -> str | None:
    """The text of a model's config.pbtxt; None before the first deploy."""
    try:
        return (folder / "config.pbtxt").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def served(folder: Path) -> list[int]:
    """The versions that config.pbtxt makes Triton serve, ascending; the last one is the champion."""
    match = re.search(r"versions:\s*\[([\d,\s]*)\]", config(folder) or "")
    return sorted(int(part) for part in match[1].split(",") if part.strip()) if match else []


def serving(folder: Path, version: int) -> dict[str, Any] | None:
    """serving.json of a version; None when it is not there."""
    try:
        document: dict[str, Any] = json.loads((folder / str(version) / "serving.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return document
