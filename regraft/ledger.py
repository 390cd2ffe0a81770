"""The ledger: the append-only history of champions, and the one truth about who is champion.

Entry N+1 is created exclusively in the store, so of two writers one wins and the other learns of it. MLflow's aliases
and Triton follow the ledger, never the other way round.
"""

from __future__ import annotations

import getpass
import os
import re
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from regraft.errors import AlreadyExists, BadInput, RegraftError
from regraft.store import Store

Kind = Literal["promote", "rollback", "withdraw"]


class Entry(BaseModel):
    """One change of champion. `model` is the identity of the finetune that made it.

    A first champion's entry is written by deploy, once the model serves; any other by promote, before its rollout. A
    `withdraw` takes back the entry before it where no earlier champion could serve: from then on there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    kind: Kind
    version: int
    """Version in the MLflow registry; also the version that Triton serves it by."""
    model: str
    run: str
    """The run that trained the model."""
    evaluation: str
    """Identity of the evaluate step whose verdict stands behind the model."""
    reason: str
    who: str
    at: datetime
    refused: int | None = None
    """The version that deploy could not roll out, where this entry takes it back."""


class Moved(AlreadyExists):
    """Another writer changed the champion in between. Read the ledger again and decide again."""


def whoami() -> str:
    """Who is promoting: the pod or task where there is one, else the user."""
    return os.environ.get("REGRAFT_WHO") or getpass.getuser()


class Ledger:
    """The ledger of one recipe.

    Args:
        store: the recipe's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Raises BadInput if one is missing or damaged."""
        names = [n for n in self._store.names("ledger") if re.fullmatch(r"\d{8}\.json", n)]
        entries = []
        for position, name in enumerate(names, start=1):
            try:
                entry = Entry.model_validate_json(self._store.read(f"ledger/{name}"))
            except ValueError as error:
                raise self._damaged(name, f"is not a ledger entry: {error}") from error
            if name != f"{position:08}.json":
                raise self._damaged(f"{position:08}.json", "is missing: the ledger has a gap")
            if entry.sequence != position:
                raise self._damaged(name, f"says that it is entry {entry.sequence}: it was copied or renamed")
            entries.append(entry)
        return entries

    def _damaged(self, name: str, what: str) -> RegraftError:
        return BadInput(
            what,
            where=self._store.where(f"ledger/{name}"),
            state="no promotion or rollback is possible until the ledger is whole; Triton serves on",
            next="restore the file from a backup or from the bucket's version history",
        )

    def head(self) -> Entry | None:
        """The current champion: the newest entry. None before the first promotion, and after a withdrawal."""
        newest = self.newest()
        return newest if newest and newest.kind != "withdraw" else None

    def newest(self) -> Entry | None:
        """The newest entry, be it a withdrawal."""
        entries = self.entries()
        return entries[-1] if entries else None

    def append(
        self,
        after: Entry | None,
        *,
        kind: Kind,
        version: int,
        model: str,
        run: str,
        evaluation: str,
        reason: str,
        who: str | None = None,
        refused: int | None = None,
    ) -> Entry:
        """Adds the entry that follows `after`, the head.

        Raises:
            Moved: `after` is not the head any more.
        """
        newest = after or self.newest()
        if newest and not after and newest.kind != "withdraw":
            raise Moved("somebody became champion meanwhile", where=self._store.where("ledger"))
        entry = Entry(
            sequence=newest.sequence + 1 if newest else 1,
            kind=kind,
            version=version,
            model=model,
            run=run,
            evaluation=evaluation,
            reason=reason,
            who=who or whoami(),
            at=datetime.now(UTC),
            refused=refused,
        )
        text = entry.model_dump_json(indent=1, exclude_none=True)
        try:
            self._store.create(f"ledger/{entry.sequence:08}.json", text.encode())
        except AlreadyExists as error:
            raise Moved(
                f"another promotion took ledger entry {entry.sequence} first",
                where=self._store.where("ledger"),
            ) from error
        return entry

    def again(self, after: Entry, of: Entry, *, kind: Kind, reason: str, refused: int | None = None) -> Entry:
        """Adds an entry for the model of an earlier one: it goes back to it, or takes it back. Raises Moved."""
        about = {"model": of.model, "run": of.run, "evaluation": of.evaluation}
        return self.append(after, kind=kind, version=of.version, reason=reason, refused=refused, **about)

    def champion(self, model: str) -> Entry | None:
        """The entry by which a model first became champion; None where it never did, or was withdrawn."""
        return next((entry for entry in _champions(self.entries()) if entry.model == model), None)

    def opponent(self, model: str) -> Entry | None:
        """The champion that a challenger is compared with.

        The current one; but a model that is in the ledger already is compared with the one it replaced, so that
        running its run again repeats its verdict instead of comparing it with itself.
        """
        entries = self.entries()
        first = next((i for i, entry in enumerate(entries) if entry.model == model), None)
        before = entries[:first][-1:]
        return before[0] if before and before[0].kind != "withdraw" else None

    def before(self, run: str) -> Entry | None:
        """The newest champion of an earlier run: what fresh data is compared with, also when a run is repeated."""
        return next((entry for entry in reversed(_champions(self.entries())) if entry.run < run), None)

    def version(self, version: int) -> Entry | None:
        """The newest entry of a registry version."""
        return next((entry for entry in reversed(self.entries()) if entry.version == version), None)

    def previous(self) -> Entry | None:
        """What a rollback returns to: the champion before the head's model first became champion."""
        entries = self.entries()
        if not entries or entries[-1].kind == "withdraw":
            return None
        entries = _champions(entries)
        first = next(i for i, entry in enumerate(entries) if entry.model == entries[-1].model)
        return next((e for e in reversed(entries[:first]) if e.model != entries[-1].model), None)


def _champions(entries: list[Entry]) -> list[Entry]:
    """The entries without those that were withdrawn, and their withdrawals."""
    kept: list[Entry] = []
    for entry in entries:
        if entry.kind == "withdraw":
            kept.pop()
        else:
            kept.append(entry)
    return kept
