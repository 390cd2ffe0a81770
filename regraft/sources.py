"""Where data and base models come from: fsspec URLs, plain paths and files that installed packages ship."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.errors import BadInput, Temporary


def variables(location: str) -> str:
    """Puts environment variables into `${NAME}` and `${NAME:-default}`. Raises BadInput."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise BadInput(
                f"the environment variable {match[1]} is not set",
                where=location,
                next=f"export {match[1]}=...",
            )
        return found

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, location)


def expand(location: str) -> str:
    """What a location of a recipe names: variables put in, and the file system's path for `package://`."""
    location = variables(location)
    if location.startswith("package://"):
        name, _, path = location.removeprefix("package://").partition("/")
        spec = importlib.util.find_spec(name)
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
    except (IsADirectoryError, NotADirectoryError) as error:
        raise BadInput(str(error), where=location) from error
    except ImportError as error:
        raise BadInput(f"its protocol needs a package that is not installed: {error}", where=location) from error
    except OSError as error:
        raise Temporary(f"cannot be read: {error}", where=location, next="repeat the command") from error
    except Exception as error:
        if unreachable(error):
            raise Temporary(f"cannot be reached: {error}", where=location, next="repeat the command") from error
        raise


def unreachable(error: BaseException) -> bool:
    """Whether a client library says that its server is not there; botocore and aiohttp do not use OSError."""
    return type(error).__module__.split(".")[0] in {"botocore", "aiobotocore", "aiohttp", "gcsfs", "urllib3"}


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL or path, listings never cached, and the path in it."""
    import fsspec

    options = {} if "://" not in url or url.startswith("file://") else {"use_listings_cache": False}
    try:
        return fsspec.core.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        raise BadInput(f"not a URL that fsspec can open: {error}", where=url) from error


def files(location: str, suffixes: tuple[str, ...] = ()) -> list[tuple[Any, str]]:
    """The files that a location names, sorted by path: itself, the matches of a glob, or all below a directory.

    Args:
        location: as in a recipe, before `expand`.
        suffixes: below a directory, only files that end so count.
    """
    url = expand(location)
    with reading(location):
        system, path = filesystem(url)
        if any(character in path for character in "*?["):
            found = [p for p in system.glob(path) if not system.isdir(p)]
        elif system.isdir(path):
            found = [p for p in system.find(path) if not suffixes or p.endswith(suffixes)]
        else:
            system.info(path)
            found = [path]
    found = [p for p in found if not Path(p).name.startswith((".", "_"))]
    if not found:
        raise BadInput("no file matches", where=location, next=f"check data.source; it was read as {url}")
    return [(system, p) for p in sorted(found)]


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


def base_model_digest(location: str, revision: str | None) -> str:
    """What pins a base model: its commit on the Hub, else the digest of its files.

    An installed package's files are taken by the digests in its RECORD, so that gigabytes are not read at each step; a
    copy of them in a folder or bucket has the same digest.
    """
    location = variables(location)
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
    found = [e for e in entries if str(e).startswith(prefix) and str(e).endswith(MODEL_FILES)]
    found = [e for e in found if not e.name.startswith((".", "_"))]
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
