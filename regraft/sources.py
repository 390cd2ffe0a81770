"""Where data and base models come from: fsspec URLs, plain paths and files that installed packages ship."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from regraft import fields, settings
from regraft.errors import LASTING, BadInput, Temporary


def variables(location: str) -> str:
    """Puts environment variables into `${NAME}` and `${NAME:-default}`.

    Raises:
        BadInput: one is not set, or what comes out is no location.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise BadInput(
                f"the environment variable {match[1]} is not set",
                where=location,
                next=f"export {match[1]}=...",
            )
        return found

    return place(re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, location), where=location)


def place(url: str, *, where: str | None = None) -> str:
    """A URL or path in which there is no variable, or none any more. Raises BadInput where it is none."""
    try:
        return fields.resolved(url)
    except ValueError as error:
        raise BadInput(settings.public(str(error)), where=where or settings.public(url)) from error


def expand(location: str) -> str:
    """What a location of a recipe names: variables put in, and the file system's path for `package://`."""
    location = variables(location)
    if location.startswith("package://"):
        name, _, path = location.removeprefix("package://").partition("/")
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # such as __main__, which has none
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(
                f"no installed package is imported as {name!r}",
                where=location,
                next="pip install the package that ships it",
            )
        return str(Path(next(iter(spec.submodule_search_locations))) / path)
    return location


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Turns what file systems raise into our errors, with `location` in them."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput("no such file, directory or bucket", where=location) from error
    except PermissionError as error:
        raise BadInput("no permission to read it; check the credentials in the environment", where=location) from error
    except ImportError as error:
        raise BadInput(f"its protocol needs a package that is not installed: {error}", where=location) from error
    except OSError as error:
        if error.errno in LASTING or isinstance(
            error, IsADirectoryError | NotADirectoryError
        ):  # fsspec's have no number
            raise BadInput(str(error), where=location) from error
        raise Temporary(f"cannot be read: {error}", where=location, next="repeat the command") from error
    except Exception as error:
        if wrong := lasting(error, where=location):
            raise wrong from error
        if unreachable(error):
            raise Temporary(f"cannot be reached: {error}", where=location, next="repeat the command") from error
        raise


def lasting(error: BaseException, *, where: str) -> BadInput | None:
    """What to say where a client library says what no repetition mends, of credentials or names; None of others."""
    name = type(error).__name__
    if name == "ParamValidationError":
        return BadInput(" ".join(str(error).split()), where=where)
    if "Credentials" not in name and name not in ("ProfileNotFound", "TokenRetrievalError"):
        return None
    return BadInput(
        f"there are no credentials to reach it with: {error}",
        where=where,
        next="export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..., or AWS_PROFILE, here as where the steps run",
    )


def unreachable(error: BaseException) -> bool:
    """Whether a client library says that its server is not there; botocore and aiohttp do not use OSError."""
    libraries = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "httpx", "httpx2", "requests", "urllib3"}
    return type(error).__module__.split(".")[0] in libraries


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL or path, listings never cached, and the path in it."""
    import fsspec

    place(url)
    if url.startswith(("s3://", "s3a://")):
        settings.aws_endpoint()
    options = {} if "://" not in url or url.startswith("file://") else {"use_listings_cache": False}
    try:
        return fsspec.core.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except (ConnectionError, TimeoutError, socket.gaierror) as error:  # some log in when they are made
        raise Temporary(f"cannot be reached: {error}", where=url, next="repeat the command") from error
    except Exception as error:  # each protocol has its own ways to say that it misses an option or a library
        if unreachable(error):
            raise Temporary(f"cannot be reached: {error}", where=url, next="repeat the command") from error
        what = f"{type(error).__name__}: {error}"[:400]
        raise BadInput(f"not a URL that fsspec can open: {what}", where=url) from error


@contextmanager
def _listing(location: str) -> Iterator[None]:
    """Turns into BadInput how protocols say that they cannot read a path, or list nothing at all."""
    try:
        yield
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        what = f"not a location that its protocol can look for: {type(error).__name__}: {error}"[:400]
        raise BadInput(what, where=location) from error


class Found(NamedTuple):
    """What a location names.

    Attributes:
        paths: of the files that count, sorted.
        hidden: what was left out because a part of its path below the location starts with `.` or `_`.
        unread: what else was left out: files of other suffixes, folders that a glob matches, files that it nearly
            matches. Both relative to the location, or to the part of it that is before the first wildcard.
    """

    system: Any
    paths: list[str]
    hidden: list[str]
    unread: list[str]


def look(location: str, suffixes: tuple[str, ...] = ()) -> Found:
    """What a location names: itself, the matches of a glob, or all below a directory.

    Args:
        location: as in a recipe, before `expand`.
        suffixes: below a directory, only files that end so count, in capitals too. A folder that a glob matches counts
            if it ends so, as Spark writes `reviews.parquet/`.

    Raises:
        BadInput: nothing is there, or nothing that counts.
    """
    url = expand(location)
    with reading(location), _listing(location):
        system, path = filesystem(url)
        root, pattern = path.rpartition("/")[0], path
        if wild := re.search(r"[*?[]", path):
            root = path[: wild.start()].rpartition("/")[0]
            found, others = _matched(system, path, suffixes)
        elif system.isdir(path):
            root = pattern = path
            found, others = _data_below(system, path, suffixes)
        else:
            system.info(path)
            found, others = [path], []
    pattern = _below(root, pattern)
    hidden = [name for name in (_below(root, p) for p in [*sorted(set(found)), *others]) if _hidden(name, pattern)]
    unread = [name for name in (_below(root, p) for p in others) if not _hidden(name, pattern)]
    paths = sorted(p for p in set(found) if not _hidden(_below(root, p), pattern))
    if not paths:
        what = f"no file matches; what is there is {some(hidden + unread)}" if hidden + unread else "no file matches"
        ends = f", and files end in {', '.join(suffixes)}" if suffixes and unread else ""
        rule = ". Parts of a path that start with . or _ do not count" if hidden else ""
        raise BadInput(what + ends + rule, where=location, next=f"check the location; it was read as {url}")
    return Found(system, paths, hidden, unread)


def _matched(system: Any, pattern: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The files that a glob names, and what somebody may think that it names."""
    found, others = [], []
    for path, info in sorted(system.glob(pattern, detail=True).items()):
        folder = _is_folder(path, info)
        if folder and suffixes and path.lower().endswith(suffixes):
            found += _data_below(system, path, suffixes)[0]
        elif not folder and not _is_no_file(system, path):
            found.append(path)
        elif "**" not in pattern:
            others.append(path)
    parent, _, name = pattern.rpartition("/")
    if suffixes and name.strip("*"):  # B.CSV and b.csv.zst beside *.csv
        beside = system.glob(f"{parent}/*", detail=True).items()
        files = [path for path, info in beside if path not in found and not _is_folder(path, info)]
        others += [
            path for path in files if path not in others and fnmatchcase(Path(path).name.lower(), f"{name.lower()}*")
        ]
    return found, others


def _data_below(system: Any, folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Files below a folder that end in a suffix, and others. One that may not be looked into is an error."""
    walked = {"on_error": "raise"} if "file" in system.protocol else {}  # fsspec would pass over it
    below = sorted(path for path in system.find(folder, **walked) if not path.endswith("/"))
    found = [path for path in below if path.lower().endswith(suffixes or "") and not _is_no_file(system, path)]
    return found, sorted(set(below) - set(found))


def _is_folder(path: str, info: dict[str, Any]) -> bool:
    # A bucket's console makes folders that are empty objects, whose names end in a slash.
    return info["type"] == "directory" or path.endswith("/")


def _is_no_file(system: Any, path: str) -> bool:
    """Whether it is a link to a folder, which may lead in circles and so is not followed, or a pipe."""
    return "file" in system.protocol and os.path.exists(path) and not os.path.isfile(path)


def _below(root: str, path: str) -> str:
    return path[len(root) :].strip("/") if path.startswith(root) else path


def _hidden(name: str, pattern: str) -> bool:
    """Whether a part of the name says that it is not data: `.ipynb_checkpoints`, `_temporary`, not `_part=1`.

    A part that the location itself spells so, as in `_archive/*.csv`, is meant.
    """
    *folders, file = name.rstrip("/").split("/")
    parts = [part for part in folders if "=" not in part] + [file]
    spelled = [part for part in pattern.split("/") if part.startswith((".", "_"))]
    return any(part.startswith((".", "_")) and not any(fnmatchcase(part, p) for p in spelled) for part in parts)


def written(path: str) -> str:
    """A path as text: what of a file's name is not UTF-8 is escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: list[str]) -> str:
    """The first few of names, and how many more there are."""
    return ", ".join(map(written, names[:5])) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def files(location: str, suffixes: tuple[str, ...] = ()) -> list[tuple[Any, str]]:
    """The files of `look`. Raises BadInput."""
    found = look(location, suffixes)
    return [(found.system, path) for path in found.paths]


def digest(location: str, suffixes: tuple[str, ...] = ()) -> str:
    """SHA-256 over the contents of all files of a location, in the order of their paths; the paths do not count."""
    total = hashlib.sha256()
    for system, path in files(location, suffixes):
        with reading(location), system.open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


MODEL_FILES = (
    "config.json",
    "generation_config.json",
    ".safetensors",
    ".gguf",
    ".model",
    ".jinja",
    ".json",
    "vocab.txt",
    "merges.txt",
)


def pinned(location: str, revision: str | None) -> None:
    """Raises BadInput where variables made a base model one of the Hub: the recipe could not ask for its revision."""
    if location.startswith("hf://") and not revision:
        raise BadInput(
            "a Hub model needs revision, the full 40-digit commit, so that it cannot change",
            where=location,
            next="name it in the recipe itself, without a variable, and its revision below",
        )


def base_model_digest(location: str, revision: str | None) -> str:
    """What pins a base model: its commit on the Hub, else the digest of its files.

    An installed package's files are taken by the digests in its RECORD, so that gigabytes are not read at each step; a
    copy of them in a folder or bucket has the same digest.
    """
    location = variables(location)
    pinned(location, revision)
    if revision:
        return hashlib.sha256(f"{location}@{revision}".encode()).hexdigest()
    if location.startswith("package://"):
        recorded = _recorded(location)
        if recorded:
            return hashlib.sha256(b"".join(recorded)).hexdigest()
    return digest(location, MODEL_FILES)


def _recorded(location: str) -> list[bytes]:
    """SHA-256 of each file below a package:// location in the order of their paths, from its distribution's RECORD."""
    name, _, path = location.removeprefix("package://").partition("/")
    expand(location)  # a package that is not there is an error
    prefix = f"{name}/{path}".rstrip("/") + "/"
    try:
        entries = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:  # the distribution has another name than its package
        return []
    found = [e for e in entries if str(e).startswith(prefix) and str(e).lower().endswith(MODEL_FILES)]
    found = [e for e in found if not _hidden(str(e).removeprefix(prefix), "")]
    if not found or not all(e.hash and e.hash.mode == "sha256" for e in found):
        return []
    return [base64.urlsafe_b64decode(f"{e.hash.value}==") for e in sorted(found, key=str) if e.hash]


def pretrained(location: str, revision: str | None, folder: Path) -> tuple[str, dict[str, Any]]:
    """The first argument and the keywords of `from_pretrained` for a base model.

    Args:
        folder: where files of a bucket are downloaded to; local files stay where they are.
    """
    location = variables(location)
    if location.startswith("hf://"):
        return location.removeprefix("hf://"), {"revision": revision}
    found = files(location, MODEL_FILES)
    url = expand(location)
    system, path = filesystem(url)
    if "file" not in system.protocol:
        with reading(location):
            for _, name in found:
                target = folder / Path(name).relative_to(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(name, str(target))
        path = str(folder)
    gguf = [Path(name).name for _, name in found if name.endswith(".gguf")]
    weights = [name for _, name in found if name.endswith(".safetensors")]
    if not weights and not gguf:
        raise BadInput("no .safetensors and no .gguf file; pickled weights are never loaded", where=location)
    if weights:
        return path, {}
    if importlib.util.find_spec("gguf") is None:
        raise BadInput(
            f"{gguf[0]} is read by the package gguf, which is not installed",
            where=location,
            next="pip install 'regraft[gguf]' where the steps run, or convert the base model to .safetensors",
        )
    return path, {"gguf_file": gguf[0]}
