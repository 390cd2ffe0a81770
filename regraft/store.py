"""The artifact store: any fsspec URL. Exclusive create, atomic publish, manifests, identities.

Layout under the store's URL, for the recipe `movie-sentiment`:

    movie-sentiment/<step>/<identity>/manifest.json     written last, once: makes the files visible
    movie-sentiment/<step>/<identity>/<attempt>/...      the files of the attempt that won
    movie-sentiment/runs/<run>/<step>.json               the run's pointer to the step's identity
    movie-sentiment/ledger/00000001.json                 the history of champions
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from regraft import disk, sources
from regraft.errors import LASTING, AlreadyExists, BadInput, NotFound, RegraftError, Temporary


def canonical(document: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, so that equal documents have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(document: Any) -> str:
    """Digest of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(canonical(document)).hexdigest()


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True)
    sha256: str
    bytes: int


class Cost(BaseModel):
    """What a step used, of this machine's time; never part of an identity or a digest."""

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


class Manifest(BaseModel):
    """The JSON file that a step writes last.

    `outputs` are the files that downstream steps read and that a rerun reproduces to the byte; `views` are files for
    people (reports, Data Docs), which may hold times. `metrics` follow from the inputs, `measured` from the machine.
    """

    format: int = 1
    recipe: str
    step: str
    identity: str
    document: dict[str, Any]
    """All that the identity is the digest of."""
    attempt: str
    outputs: dict[str, FileRecord]
    views: dict[str, FileRecord] = {}
    metrics: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    refused: str | None = None
    """Why a gate said no; a refusal is a complete result."""
    cost: Cost | None = None
    run: str | None = None
    processor: str | None = None
    """The kind of processor that it was made on, see `regraft.processor`; never part of an identity or a digest."""
    created_at: datetime

    @property
    def inputs(self) -> dict[str, str]:
        return dict(self.document["inputs"])

    @property
    def digest(self) -> str:
        """Digest of the result: what the step put out and whether it was refused."""
        return sha256({"outputs": {k: v.sha256 for k, v in self.outputs.items()}, "refused": self.refused})


class Store:
    """The part of a store that belongs to one recipe. Keys are relative to it.

    Args:
        url: fsspec URL or path of the store, such as s3://bucket/prefix.
        recipe: the recipe's name.
    """

    def __init__(self, url: str, recipe: str) -> None:
        self.url = url.rstrip("/")
        self.recipe = recipe
        self._fs: Any
        if disk.is_path(self.url):
            self._fs, root = disk.Disk(), disk.absolute(self.url)
        else:
            self._fs, root = sources.filesystem(self.url)
        self._root = f"{root.rstrip('/')}/{recipe}"
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def path(self, key: str) -> str:
        """The key's path in the store's file system."""
        return f"{self._root}/{key}"

    def where(self, key: str) -> str:
        """The key as a person would name it, for messages."""
        return f"{self.url}/{self.recipe}/{key}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except RegraftError:
            raise
        except FileExistsError as error:
            raise AlreadyExists("was created by somebody else first", where=self.where(key)) from error
        except FileNotFoundError as error:
            if _no_bucket(error):
                raise BadInput(
                    "the bucket of the store does not exist",
                    where=self.url,
                    next="create the bucket, or correct REGRAFT_STORE or --store",
                ) from error
            raise NotFound("not in the store", where=self.where(key)) from error
        except PermissionError as error:
            raise BadInput(
                "the store refuses access",
                where=self.where(key),
                next="check the credentials and rights of REGRAFT_STORE",
            ) from error
        except OSError as error:
            if error.errno in LASTING:
                raise BadInput(
                    f"the store cannot be written: {error.strerror}",
                    where=self.where(key),
                    next="correct REGRAFT_STORE or --store",
                ) from error
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"store: {error}"
            raise Temporary(
                what,
                where=self.where(key),
                state="nothing half-written is visible",
                next="free space or mend the network, then repeat the command: it resumes",
            ) from error
        except Exception as error:
            if wrong := sources.lasting(error, where=self.where(key)):
                raise wrong from error
            if sources.unreachable(error):
                raise Temporary(
                    f"the store cannot be reached: {error}",
                    where=self.where(key),
                    next="repeat the command: it resumes",
                ) from error
            raise

    def read(self, key: str) -> bytes:
        """The bytes under a key. Raises NotFound."""
        with self._translated(key):
            return bytes(self._fs.cat_file(self.path(key)))

    def read_json(self, key: str) -> Any:
        """The JSON document under a key. Raises NotFound, and BadInput when it is damaged."""
        try:
            return json.loads(self.read(key))
        except ValueError as error:
            raise BadInput(f"damaged, not JSON: {error}", where=self.where(key)) from error

    def exists(self, key: str) -> bool:
        with self._translated(key):
            return bool(self._fs.exists(self.path(key)))

    def names(self, key: str) -> list[str]:
        """Names directly below a key, sorted; none when there is nothing. Temporary names are left out."""
        with self._translated(key):
            try:
                found = self._fs.ls(self.path(key), detail=False)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return []
        base = self.path(key).rstrip("/")
        names = (str(p).rstrip("/").removeprefix(base).strip("/").rsplit("/", 1)[-1] for p in found)
        return sorted(n for n in names if n and not n.startswith(".tmp-"))

    def create(self, key: str, data: bytes) -> None:
        """Writes a key that must not be there yet, whole or not at all. Raises AlreadyExists."""
        with self._translated(key):
            if self._local:
                with self._temporary(key, data) as temporary:
                    os.link(temporary, self.path(key))
            else:
                self._fs.pipe_file(self.path(key), data, mode="create")

    def replace(self, key: str, data: bytes) -> None:
        """Writes a key, whole or not at all, over what may be there."""
        with self._translated(key):
            if self._local:
                with self._temporary(key, data) as temporary:
                    os.replace(temporary, self.path(key))
            else:
                self._fs.pipe_file(self.path(key), data)

    @contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[Path]:
        """A file beside `key` on a local disk, flushed to the disk, gone afterwards."""
        folder = Path(self.path(key)).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".tmp-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Removes a key and all below it; nothing happens when it is not there."""
        with self._translated(key), suppress(FileNotFoundError):
            self._fs.rm(self.path(key), recursive=True)

    def manifest(self, prefix: str) -> Manifest | None:
        """The manifest under a prefix, or None when nothing complete stands there. Raises BadInput if it is damaged."""
        key = f"{prefix}/manifest.json"
        try:
            return Manifest.model_validate_json(self.read(key))
        except NotFound:
            return None
        except ValueError as error:
            raise BadInput(
                f"damaged, not a manifest: {error}",
                where=self.where(key),
                next=f"remove {self.where(prefix)} and run again: the step makes it anew",
            ) from error

    def publish(self, prefix: str, folder: Path, manifest: dict[str, Any], *, views: tuple[str, ...] = ()) -> Manifest:
        """Uploads all files of a folder, then makes them visible by creating the manifest.

        Whoever creates the manifest first wins; the others get the winner's manifest back and their upload is removed.

        Args:
            prefix: where to publish, such as finetune/<identity>.
            manifest: the fields of the manifest that the files do not determine.
            views: files and folders (by their first path part) that are for people; see Manifest.
        """
        attempt = f"attempt-{uuid.uuid4().hex[:12]}"
        outputs: dict[str, FileRecord] = {}
        shown: dict[str, FileRecord] = {}
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder).as_posix()
            with file.open("rb") as content:
                record = FileRecord(
                    sha256=hashlib.file_digest(content, "sha256").hexdigest(), bytes=file.stat().st_size
                )
            (shown if name.split("/")[0] in views else outputs)[name] = record
        try:
            for name in (*outputs, *shown):
                self._upload(folder / name, f"{prefix}/{attempt}/{name}")
            complete = Manifest(attempt=attempt, outputs=outputs, views=shown, recipe=self.recipe, **manifest)
            self.create(f"{prefix}/manifest.json", complete.model_dump_json(indent=1).encode())
        except BaseException as error:
            winner = None
            with suppress(Exception):
                self.remove(f"{prefix}/{attempt}")
            if isinstance(error, Exception):  # a winner's sweep can take folders away under an upload: any error counts
                with suppress(Exception):
                    winner = self.manifest(prefix)
            if winner is None:
                raise
            return winner
        for leftover in self.names(prefix):  # of attempts that died, and checkpoints, which have served
            if leftover not in (attempt, "manifest.json"):
                with suppress(RegraftError):  # somebody may be uploading there still; it harms nobody
                    self.remove(f"{prefix}/{leftover}")
        return complete

    def _upload(self, file: Path, key: str) -> None:
        with self._translated(key):
            if self._local:  # of a bucket it would make the bucket
                Path(self.path(key)).parent.mkdir(parents=True, exist_ok=True)
            self._fs.put_file(str(file), self.path(key))

    def fetch(self, prefix: str, manifest: Manifest, folder: Path, *, only: tuple[str, ...] = ()) -> Path:
        """Downloads the files of a manifest into a folder, each checked against its SHA-256.

        Args:
            only: names or first path parts to fetch; everything when empty.
        """
        for name, record in {**manifest.outputs, **manifest.views}.items():
            if only and name not in only and name.split("/")[0] not in only:
                continue
            key, target = f"{prefix}/{manifest.attempt}/{name}", folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._translated(key):
                self._fs.get_file(self.path(key), str(target))
            with target.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                    target.unlink()
                    raise BadInput(
                        "the file does not have the SHA-256 that its manifest states",
                        where=self.where(key),
                        next=f"remove {self.where(prefix)} and run again: the step makes it anew",
                    )
        return folder

    def clear(self, prefix: str) -> None:
        """Removes a published result; the manifest goes first, so that no half result is ever visible.

        Only that result's own files: another attempt may be uploading beside it.
        """
        manifest = self.manifest(prefix)
        self.remove(f"{prefix}/manifest.json")
        if manifest is not None:
            self.remove(f"{prefix}/{manifest.attempt}")


def _no_bucket(error: FileNotFoundError) -> bool:
    """Whether not only the key but its whole bucket is missing; botocore's answer is the cause of s3fs's error."""
    answer = getattr(error.__cause__, "response", None) or {}
    return bool(answer.get("Error", {}).get("Code") == "NoSuchBucket")
