"""The model repository that Triton reads: version directories appear whole and never change, one deploy at a time.

    <repository>/.<name>.lock            held by the deploy that is at work; the kernel lets go when it dies
    <repository>/<name>/config.pbtxt     replaced whole; names the versions that Triton serves
    <repository>/<name>/<version>/       as built, see `export`
    <repository>/<name>/.tmp-*           half-copied or being removed; Triton does not look at them

A request that names no version gets the highest one served. So the champion is always the highest, and the version kept
warm for a rollback is a lower one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft import model_repository
from regraft.digests import digests, sha256
from regraft.errors import LASTING, BadInput, Temporary

LOCK_SECONDS = 900.0


@dataclass(frozen=True)
class Repository:
    """The part of a model repository that belongs to one model."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def directory(self, version: int) -> Path:
        return self.folder / str(version)

    @contextmanager
    def lock(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Keeps other deploys of this model out.

        Raises:
            Temporary: another one is still at work after that many seconds.
        """
        with _translated(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / f".{self.name}.lock").open("ab")
        with file:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise Temporary(
                            f"another deploy of {self.name} is still at work",
                            where=file.name,
                            next="repeat the command",
                        ) from error
                    time.sleep(0.1)
            yield

    def versions(self) -> list[int]:
        """The versions whose directories are there."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if re.fullmatch(r"[1-9]\d*", p.name))

    def serving(self, version: int) -> dict[str, Any] | None:
        """serving.json of a version; None when it is not there."""
        return model_repository.serving(self.folder, version)

    def whole(self, version: int) -> bool:
        """Whether a version directory is as it was built, by the digest in its serving.json."""
        serving, folder = self.serving(version), self.directory(version)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # Triton may leave it, and Python would believe it
        return serving is not None and serving.get("digest") == digest(serving, folder)

    def config(self) -> str | None:
        """The text of config.pbtxt; None before the first deploy."""
        return model_repository.config(self.folder)

    def served(self) -> list[int]:
        """The versions that config.pbtxt makes Triton serve, ascending; the last one is the champion."""
        return model_repository.served(self.folder)

    def configure(self, text: str) -> None:
        """Puts config.pbtxt in place, whole."""
        with _translated(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".tmp-{uuid.uuid4().hex}"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.folder / "config.pbtxt")

    def publish(self, built: Path, version: int) -> Path | None:
        """Copies a built version directory in; it appears whole, by a rename.

        Returns:
            Where the directory lies that stood there before (the same version, built otherwise), or None.
        """
        target = self.directory(version)
        with _translated(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".tmp-{uuid.uuid4().hex}"
            shutil.copytree(built, temporary)
            replaced = None
            if target.exists():
                replaced = self.folder / f".tmp-{uuid.uuid4().hex}"
                os.rename(target, replaced)
            os.rename(temporary, target)
            return replaced

    def remove(self, version: int) -> None:
        """Takes a version directory away, whole."""
        if self.directory(version).exists():
            hidden = self.folder / f".tmp-{uuid.uuid4().hex}"
            os.rename(self.directory(version), hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def put_back(self, replaced: Path, version: int) -> None:
        """Undoes a `publish` that replaced a directory."""
        self.remove(version)
        os.rename(replaced, self.directory(version))

    def clean(self) -> None:
        """Removes what a killed deploy left behind. Only under the lock."""
        for leftover in self.folder.glob(".tmp-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def digest(serving: Mapping[str, Any], folder: Path) -> str:
    """Digest of a version directory: of what its serving.json says besides, and of each other file."""
    files = digests(folder)
    files.pop("serving.json", None)
    return sha256({"serving": {key: value for key, value in serving.items() if key != "digest"}, "files": files})


@contextmanager
def _translated(where: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise BadInput("the model repository cannot be written", where=str(where), next="check its owner") from error
    except OSError as error:
        if error.errno in LASTING:
            raise BadInput(
                f"the model repository cannot be written: {error.strerror}",
                where=str(where),
                next="correct REGRAFT_MODEL_REPOSITORY",
            ) from error
        raise Temporary(
            f"the model repository cannot be written: {error.strerror}",
            where=str(where),
            state="nothing half-written is visible to Triton, which serves on",
            next="mend the disk, then repeat the command",
        ) from error
