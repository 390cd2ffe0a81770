"""Where data and base models come from: fsspec URLs, plain paths and files that installed packages ship."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from regraft import locations, names, settings
from regraft.errors import LASTING, BadInput, Temporary


def expand(location: str) -> str:
    """What a location of a recipe names: see `locations.allowed`; and the file system's path for `package://`."""
    url = locations.allowed(location)
    return locations.package(url, where=location) if url.startswith("package://") else url


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


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a URL or path, listings never cached, and the path in it."""
    import fsspec

    locations.place(url)
    if url.startswith(("s3://", "s3a://")):
        settings.aws_endpoint()
    if "://" in url and not url.startswith("file://"):
        options["use_listings_cache"] = False
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


class Listed(NamedTuple):
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


def opened(location: str) -> tuple[Any, str]:
    """The file system of a recipe's location, and the path in it. Raises BadInput."""
    url = expand(location)
    own = {"get_client": locations.outward} if url.startswith(("http://", "https://")) else {}
    with reading(location):
        return filesystem(url, **own)


def look(location: str, suffixes: tuple[str, ...] = ()) -> Listed:
    """What a location of a recipe names: see `listed`. Raises BadInput, also where it may not name it."""
    system, path = opened(location)
    return listed(system, path, suffixes, where=location)


def listed(system: Any, path: str, suffixes: tuple[str, ...] = (), *, where: str) -> Listed:
    """What a path names: itself, the matches of a glob, or all below a directory.

    Args:
        suffixes: below a directory, only files that end so count, in capitals too. A folder that a glob matches counts
            if it ends so, as Spark writes `reviews.parquet/`.

    Raises:
        BadInput: nothing is there, or nothing that counts.
    """
    with reading(where), _listing(where):
        root, pattern = path.rpartition("/")[0], path
        if wild := re.search(r"[*?[]", path):
            root = path[: wild.start()].rpartition("/")[0]
            matched, others = _matched(system, path, suffixes)
        elif system.isdir(path):
            root = pattern = path
            matched, others = _data_below(system, path, suffixes)
        else:
            system.info(path)
            matched, others = [path], []
    pattern = _below(root, pattern)
    hidden = [name for name in (_below(root, p) for p in [*sorted(set(matched)), *others]) if _hidden(name, pattern)]
    unread = [name for name in (_below(root, p) for p in others) if not _hidden(name, pattern)]
    paths = sorted(p for p in set(matched) if not _hidden(_below(root, p), pattern))
    if not paths:
        what = f"no file matches; what is there is {some(hidden + unread)}" if hidden + unread else "no file matches"
        ends = f", and files end in {', '.join(suffixes)}" if suffixes and unread else ""
        rule = ". Parts of a path that start with . or _ do not count" if hidden else ""
        held = " && ".join(f"echo ${name}" for name in locations.variables(where))
        mend = f"check the location, also as it was read: {held}" if held else "check the location"
        raise BadInput(what + ends + rule, where=where, next=mend)
    return Listed(system, paths, hidden, unread)


def _matched(system: Any, pattern: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The files that a glob names, and what somebody may think that it names."""
    matched, others = [], []
    for path, info in sorted(system.glob(pattern, detail=True).items()):
        folder = _is_folder(path, info)
        if folder and suffixes and path.lower().endswith(suffixes):
            matched += _data_below(system, path, suffixes)[0]
        elif not folder and not _is_no_file(system, path):
            matched.append(path)
        elif "**" not in pattern:
            others.append(path)
    parent, _, name = pattern.rpartition("/")
    if suffixes and name.strip("*"):  # B.CSV and b.csv.zst beside *.csv
        beside = system.glob(f"{parent}/*", detail=True).items()
        files = [path for path, info in beside if path not in matched and not _is_folder(path, info)]
        others += [
            path for path in files if path not in others and fnmatchcase(Path(path).name.lower(), f"{name.lower()}*")
        ]
    return matched, others


def _data_below(system: Any, folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Files below a folder that end in a suffix, and others. One that may not be looked into is an error."""
    walked = {"on_error": "raise"} if "file" in system.protocol else {}  # fsspec would pass over it
    below = sorted(path for path in system.find(folder, **walked) if not path.endswith("/"))
    data = [path for path in below if path.lower().endswith(suffixes or "") and not _is_no_file(system, path)]
    return data, sorted(set(below) - set(data))


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
    return combined(digests(location, look(location, suffixes)))


def combined(each: Iterable[bytes]) -> str:
    """SHA-256 over those of several files."""
    return hashlib.sha256(b"".join(each)).hexdigest()


def digests(location: str, found: Listed) -> Iterator[bytes]:
    """SHA-256 of each file of a location, in the order of their paths."""
    for path in found.paths:
        with reading(location), found.system.open(path, "rb") as file:
            yield hashlib.file_digest(file, "sha256").digest()


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


def base_model(location: str, revision: str | None) -> str:
    """What the location of a base model names, as `locations.allowed`.

    Raises:
        BadInput: it may not; or variables made it one of the Hub, whose revision the recipe could not ask for.
    """
    url = locations.allowed(location)
    if url.startswith("hf://") and not revision:
        raise BadInput(
            "a Hub model needs revision, the full 40-digit commit, so that it cannot change",
            where=location,
            next="name it in the recipe itself, without a variable, and its revision below",
        )
    return url


def base_model_digest(location: str, revision: str | None) -> str:
    """What pins a base model: its commit on the Hub, else the digest of its files, wherever they are.

    Those of an installed package are read as well: its RECORD may say what it likes of them.
    """
    url = base_model(location, revision)
    if revision:
        return hashlib.sha256(f"{url}@{revision}".encode()).hexdigest()
    return digest(location, MODEL_FILES)


def pretrained(location: str, revision: str | None, folder: Path) -> tuple[str, dict[str, Any]]:
    """The first argument and the keywords of `from_pretrained` for a base model.

    Args:
        folder: where files of a bucket are downloaded to, or were by `base_model.compared`; local files stay where they
            are. A champion was made there by `regraft.bases`.
    """
    if locations.champion(location) is not None:
        return str(folder), {}
    url = base_model(location, revision)
    if url.startswith("hf://"):
        if any(folder.glob("*")):
            return str(folder), {}
        return url.removeprefix("hf://"), {"revision": revision}
    found = look(location, MODEL_FILES)
    system, path = opened(location)
    if "file" not in system.protocol:
        if not any(folder.glob("*")):
            download(location, path, found, folder)
        path = str(folder)
    gguf = [Path(name).name for name in found.paths if name.endswith(".gguf")]
    weights = [name for name in found.paths if name.endswith(".safetensors")]
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


def download(location: str, path: str, found: Listed, folder: Path) -> Listed:
    """Brings files of a bucket into a folder, and gives them as they lie there, in the same order.

    Args:
        path: of the location, as its file system names it.

    Raises:
        BadInput: a name would leave the folder; then none is brought.
    """
    for name in found.hidden:
        names.inside(name, where=location)
    below = path.rstrip("/") + "/"
    there = [name.removeprefix(below) if name.startswith(below) else Path(name).name for name in found.paths]
    targets = [names.joined(folder, name, where=location) for name in there]
    with reading(location):
        for name, target in zip(found.paths, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            found.system.get_file(name, str(target))
    return Listed(filesystem(str(folder))[0], [str(target) for target in targets], [], [])
