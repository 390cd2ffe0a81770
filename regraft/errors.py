"""The error tree: each error has an exit code and says what happened, where, in what state things are, what to type."""

from __future__ import annotations

import enum
import errno

LASTING = {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EROFS}
"""What the system says of a path that no repetition makes right."""


class Exit(enum.IntEnum):
    """How a step ends; every runner turns these five numbers into its own states."""

    DONE = 0
    BUG = 1
    REFUSED = 10
    BAD_INPUT = 20
    TEMPORARY = 75


class RegraftError(Exception):
    """An error that a user can act on.

    Args:
        what: one sentence: what happened, with the offending value and what was expected.
        where: file, line, key or URL it happened at.
        state: what state things are in now, where that is not obvious.
        next: the command to type next.
    """

    exit: Exit = Exit.BUG

    def __init__(
        self, what: str, *, where: str | None = None, state: str | None = None, next: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.state = state
        self.next = next

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.state:
            lines.append(f"  state: {self.state}")
        if self.next:
            lines.append(f"  next:  {self.next}")
        return "\n".join(lines)


class Refused(RegraftError):
    """A gate said no. Nothing is broken, and downstream steps are skipped."""

    exit = Exit.REFUSED


class BadInput(RegraftError):
    """The recipe, the data or the configuration is wrong. Retrying is useless."""

    exit = Exit.BAD_INPUT


class Temporary(RegraftError):
    """A server, a disk or a network is not there right now. Retrying helps."""

    exit = Exit.TEMPORARY


class AlreadyExists(Temporary):
    """Somebody else created the key first. The caller re-reads and decides again."""


class NotFound(BadInput):
    """A key that should be in the store is not there."""
