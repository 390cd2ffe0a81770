"""Digests of documents and files: what identities and results are compared by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical(document: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, so that equal documents have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(document: Any) -> str:
    """Digest of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(canonical(document)).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its name there."""
    by_name = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as content:
            by_name[file.relative_to(folder).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
    return by_name
