"""Who may ask which models, and which there are."""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components.openai.asked import Refused
from regraft import model_repository
from regraft.errors import BadInput

KEYS = "REGRAFT_OPENAI_KEYS"
"""Names the file of the keys: a JSON object that has, for each key, the recipes that it may ask, "*" being all."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A version of a language model that Triton serves."""

    name: str
    version: int
    asks: str
    """What it is asked: `messages` or `text`."""
    since: int
    """When its files came, in seconds since 1970."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


class Catalogue:
    """The language models of a model repository."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        return sorted(config.parent.name for config in self.root.glob("*/config.pbtxt"))

    def versions(self, name: str) -> list[Served]:
        """The versions of a language model that are served, the champion first; none where it is no language model."""
        folder, served = self.root / name, list[Served]()
        for version in reversed(model_repository.served(folder)):
            with suppress(FileNotFoundError):  # deploy is taking it away
                if asks := (model_repository.serving(folder, version) or {}).get("asks"):
                    since = int((folder / str(version) / "serving.json").stat().st_mtime)
                    served.append(Served(name=name, version=version, asks=asks, since=since))
        return served


class Keys:
    """Who may ask which recipes; without any, whoever reaches this server may ask all."""

    def __init__(self, allowed: Mapping[str, list[str]]) -> None:
        self._allowed = allowed

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Keys:
        """The keys of the file that REGRAFT_OPENAI_KEYS names. Raises BadInput."""
        path = environment.get(KEYS)
        if not path:
            return cls({})
        mend = '{"KEY": ["RECIPE"], "OTHER": ["*"]}, each key of visible letters without a space'
        try:
            found = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror}", where=f"{KEYS}={path}", next="mount it") from error
        except ValueError as error:
            raise BadInput("is not JSON", where=f"{KEYS}={path}", next=f"write {mend}") from error
        of_keys = found if isinstance(found, dict) and found else {"": []}
        if not all(
            re.fullmatch(r"[!-~]+", key) and isinstance(names, list) and all(isinstance(name, str) for name in names)
            for key, names in of_keys.items()
        ):
            raise BadInput("does not say which recipes each key may ask", where=f"{KEYS}={path}", next=f"write {mend}")
        return cls(of_keys)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def may(self, authorization: str) -> Callable[[str], bool]:
        """Says of a recipe whether who sent this header may see it. Raises Refused."""
        if not self._allowed:
            return lambda name: True
        sent = authorization.removeprefix("Bearer ").strip().encode()
        names = [names for key, names in self._allowed.items() if hmac.compare_digest(key.encode(), sent)]
        if not names:
            raise Refused(401, "no such API key is known here", code="invalid_api_key")
        return lambda name: "*" in names[0] or name in names[0]
