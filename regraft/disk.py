"""A folder of this machine as a store sees it: the methods of fsspec's file systems that `Store` calls, no more.

fsspec has them too, but to import it takes longer than all that a cached step does, and every step is a process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def is_path(url: str) -> bool:
    """Whether a store's URL is a plain path; what has a colon, such as file:///x, is fsspec's."""
    return ":" not in url


def absolute(path: str) -> str:
    """The path that a person means by `~/store` or `store`."""
    return os.path.abspath(os.path.expanduser(path))


class Disk:
    """Paths are absolute; what goes wrong is an OSError."""

    protocol = "file"

    def cat_file(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def find(self, path: str) -> list[str]:
        return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]

    def ls(self, path: str, detail: bool = False) -> list[str]:
        return [os.path.join(path, name) for name in os.listdir(path)]

    def put_file(self, here: str, path: str) -> None:
        shutil.copyfile(here, path)

    def get_file(self, path: str, here: str) -> None:
        shutil.copyfile(path, here)

    def rm(self, path: str, recursive: bool = False) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
