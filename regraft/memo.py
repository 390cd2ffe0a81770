"""What is kept in the store beside the results of steps, so that it need not be computed again: scores, golden answers.

The key of each follows the rule of identities: the digests of its inputs, the code that makes it, the libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from regraft import closure, pipeline
from regraft.digests import sha256
from regraft.errors import AlreadyExists, BadInput, NotFound
from regraft.store import Store

Content = TypeVar("Content")

LIBRARIES = ("numpy", "peft", "pyarrow", "scipy", "tokenizers", "torch", "transformers")
"""What determines a model's answers offline, which are all that is kept so."""


@dataclass(frozen=True, kw_only=True)
class Memo:
    """Files of one kind.

    Attributes:
        kind: their folder in the store.
        code: the module or package that makes them; what it imports of regraft counts, and the task.
        libraries: that determine them.
    """

    store: Store
    kind: str
    code: str
    task: str
    libraries: tuple[str, ...] = LIBRARIES

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        code = closure.digest(self.code, task=self.task)
        return {"code": code, "libraries": pipeline.versions(self.libraries, of=self.kind)}

    def get(
        self, name: str, inputs: Mapping[str, str], make: Callable[[], bytes], read: Callable[[bytes], Content]
    ) -> Content:
        """What the file says that is kept, or else the one that is made now. Of two made at once, both get the first.

        Args:
            name: what it is of, such as a model's identity; the file's name begins with it.
            inputs: digests of all that it is made from.
            read: takes the file's bytes, and raises whatever it likes where they are no such file.

        Raises:
            BadInput: it is damaged.
        """
        key = self.key(name, inputs)
        content = self._kept(key, make)
        try:
            return read(content)
        except Exception as error:  # libraries raise what their parts do
            raise BadInput(
                f"damaged: {error}",
                where=self.store.where(key),
                next=f"remove {self.store.where(key)} and repeat the command: it is made anew",
            ) from error

    def _kept(self, key: str, make: Callable[[], bytes]) -> bytes:
        try:
            return self.store.read(key)
        except NotFound:
            made = make()
        try:
            self.store.create(key, made)
        except AlreadyExists:
            return self.store.read(key)
        return made

    def key(self, name: str, inputs: Mapping[str, str]) -> str:
        """Where a file is kept."""
        return f"{self.kind}/{name}-{sha256({'inputs': dict(inputs), **self._made_by})}"
