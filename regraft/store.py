"""The artifact store: any fsspec URL. Exclusive create, atomic publish, manifests, identities.

Layout under the store's URL, for the recipe `movie-sentiment`:

    movie-sentiment/<step>/<identity>/manifest.json     written last, once: makes the files visible
    movie-sentiment/<step>/<identity>/<attempt>/...      the files of the attempt that won
    movie-sentiment/runs/<run>/<step>.json               the run's pointer to the step's identity
    movie-sentiment/recipes/<sha256>.yaml                what runs were made with, each recipe once
    movie-sentiment/approvals/<sha256>.json              who approved which model
    movie-sentiment/proven/<identity>.json               the model in MLflow that was proven to be that finetune
    movie-sentiment/built/<sha256>.json                  a version directory that deploy built, by its digest
    movie-sentiment/ledger/00000001.json                 the history of champions
    movie-sentiment/ledger/index.json                    a few words of each of its entries
    movie-sentiment/signatures/<sha256>.json             of one of the above, where a key is configured
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from regraft import disk, names, signing, sources
from regraft.errors import LASTING, AlreadyExists, BadInput, NotFound, RegraftError, Temporary
from regraft.manifest import FileRecord, Manifest, Pointer

READERS = 16
"""How many keys are read at once."""
Kind = TypeVar("Kind", bound=BaseModel)

_RESTORE = "find out who wrote it, or restore it from a backup or from the bucket's version history"
_UNSIGNED = re.compile(r"/attempt-|/\.tmp-|^signatures/")


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
        self._root = f"{root.rstrip('/')}/{names.inside(recipe, where=url)}"
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        self._local = "file" in protocols
        # s3fs would ask for the size first, to read what is large in parts
        self._whole = {"max_concurrency": 1} if "s3" in protocols else {}

    def path(self, key: str) -> str:
        """The key's path in the store's file system. Raises BadInput where it is not below the recipe's."""
        where = self.where(key)
        if self._local:
            return str(names.joined(self._root, key, where=where))
        return f"{self._root}/{names.inside(key, where=where)}"

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
        """The bytes under a key. Raises NotFound, and BadInput where a key is configured and did not sign them."""
        content = self._bytes(key)
        if signing.wanted():
            self._verify(key, content)
        return content

    def _bytes(self, key: str) -> bytes:
        with self._translated(key):
            return bytes(self._fs.cat_file(self.path(key), **self._whole))

    def _verify(self, key: str, content: bytes) -> None:
        try:
            signature = self._bytes(self._signature(key, content))
        except NotFound:
            what = "is not signed, or is not what was signed"
        else:
            if signing.verified(self._place(key), content, signature):
                return
            what = "is not signed by the key that is configured"
        raise BadInput(
            what,
            where=self.where(key),
            state="nothing was read of it",
            next=f"find out who wrote it; what you vouch for is signed by: regraft sign {self.recipe}",
        )

    def _place(self, key: str) -> str:
        """What a signature calls the key; the object is laid out there to be signed, so it leads nowhere else."""
        return f"{self.recipe}/{names.inside(key, where=self.where(key))}"

    def _signature(self, key: str, content: bytes) -> str:
        return f"signatures/{signing.digest(self._place(key), content)}.json"

    def _sign(self, key: str, content: bytes) -> bool:
        """Puts the signature of what is to stand under a key; False where there is no key to sign with."""
        if signature := signing.sign(self._place(key), content):
            self._write(self._signature(key, content), signature)
        return signature is not None

    def sign(self) -> int:
        """Signs all that is there, as it is now, for whoever vouches for it; gives how many objects that are.

        Files of results need none: their manifest has their digests.
        """
        with self._translated(""):
            found = self._fs.find(self._root)
        keys = sorted(str(path).removeprefix(self._root).lstrip("/") for path in found)
        signed = [key for key in keys if not _UNSIGNED.search(key) and self._sign(key, self._bytes(key))]
        return len(signed)

    def read_all(self, keys: list[str]) -> list[bytes]:
        """The bytes under each key, several at once where the protocol can. Raises NotFound."""
        with ThreadPoolExecutor(READERS if getattr(self._fs, "async_impl", False) else 1) as pool:
            return list(pool.map(self.read, keys))

    def read_json(self, key: str) -> Any:
        """The JSON document under a key. Raises NotFound, and BadInput when it is damaged."""
        try:
            return from_json(self.read(key))
        except ValueError as error:
            raise BadInput(f"damaged, not JSON: {error}", where=self.where(key), next=_RESTORE) from error

    def read_as(self, key: str, kind: type[Kind]) -> Kind:
        """The document under a key. Raises NotFound, and BadInput when it is damaged, or is no such document."""
        try:
            return kind.model_validate(self.read_json(key))
        except ValueError as error:
            raise BadInput(f"damaged: {error}", where=self.where(key), next=_RESTORE) from error

    def pointer(self, run: str, step: str) -> Pointer:
        """What became of a step in a run. Raises NotFound, and BadInput when it is damaged."""
        return self.read_as(f"runs/{run}/{step}.json", Pointer)

    def exists(self, key: str) -> bool:
        with self._translated(key):
            return bool(self._fs.exists(self.path(key)))

    def names(self, key: str) -> list[str]:
        """Names directly below a key, sorted; none when there is nothing. Temporary names are left out."""
        with self._translated(key):
            try:
                paths = self._fs.ls(self.path(key), detail=False)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return []
        base = self.path(key).rstrip("/")
        below = (str(p).rstrip("/").removeprefix(base).strip("/").rsplit("/", 1)[-1] for p in paths)
        return sorted(n for n in below if n and not n.startswith(".tmp-"))

    def create(self, key: str, data: bytes) -> None:
        """Writes a key that must not be there yet, whole or not at all. Raises AlreadyExists."""
        signed = self._sign(key, data)
        try:
            self._create(key, data)
        except AlreadyExists:
            if signed and self._bytes(key) != data:  # what lost is never to stand there
                self.remove(self._signature(key, data))
            raise

    def _create(self, key: str, data: bytes) -> None:
        with self._translated(key):
            if self._local:
                with self._temporary(key, data) as temporary:
                    os.link(temporary, self.path(key))
            else:
                self._fs.pipe_file(self.path(key), data, mode="create")

    def replace(self, key: str, data: bytes) -> None:
        """Writes a key, whole or not at all, over what may be there."""
        self._sign(key, data)
        self._write(key, data)

    def _write(self, key: str, data: bytes) -> None:
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
        """The manifest under a prefix, or None when nothing complete stands there.

        Raises:
            BadInput: it is damaged, names a file outside its folder, or is that of another place; or the prefix, which
                a pointer may have given, is no place of a result.
        """
        key = f"{prefix}/manifest.json"
        place = names.result(prefix, where=self.where(key))
        try:
            manifest = Manifest.model_validate_json(self.read(key))
        except NotFound:
            return None
        except ValueError as error:
            raise BadInput(
                f"damaged, not a manifest: {error}",
                where=self.where(key),
                next=f"remove {self.where(prefix)} and run again: the step makes it anew",
            ) from error
        if (manifest.step, manifest.identity) != place or not names.ATTEMPT.fullmatch(manifest.attempt):
            said = f"{manifest.attempt[:80]!r} of {f'{manifest.step}/{manifest.identity}'[:200]!r}"
            raise BadInput(
                f"says that it is attempt {said}; expected {'/'.join(place)}, where it stands",
                where=self.where(key),
                state="nothing was read of it",
                next=f"find out who wrote it; then remove {self.where(prefix)} and run again",
            )
        names.tree({**manifest.outputs, **manifest.views}, where=self.where(key))
        return manifest

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
            names.joined(folder, name, where=str(folder))  # a link out of it would publish what is not the step's
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

    def output(self, manifest: Manifest, name: str) -> bytes:
        """One file of a result, checked against its SHA-256. Raises NotFound and BadInput."""
        record = {**manifest.outputs, **manifest.views}[name]
        prefix = f"{manifest.step}/{manifest.identity}"
        content = self._bytes(key := f"{prefix}/{manifest.attempt}/{name}")
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise self._altered(prefix, key)
        return content

    def _altered(self, prefix: str, key: str) -> BadInput:
        return BadInput(
            "the file does not have the SHA-256 that its manifest states",
            where=self.where(key),
            next=f"remove {self.where(prefix)} and run again: the step makes it anew",
        )

    def fetch(self, prefix: str, manifest: Manifest, folder: Path, *, only: tuple[str, ...] = ()) -> Path:
        """Downloads the files of a manifest into a folder, each checked against its SHA-256.

        Args:
            only: names or first path parts to fetch; everything when empty.
        """
        for name, record in {**manifest.outputs, **manifest.views}.items():
            if only and name not in only and name.split("/")[0] not in only:
                continue
            key = f"{prefix}/{manifest.attempt}/{name}"
            target = names.joined(folder, name, where=self.where(f"{prefix}/manifest.json"))
            with self._translated(key):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(self.path(key), str(target))
            with target.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                    target.unlink()
                    raise self._altered(prefix, key)
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
