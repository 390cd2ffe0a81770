"""The ledger: the append-only history of champions, and the one truth about who is champion.

Entry N+1 is created exclusively in the store, so of two writers one wins and the other learns of it. MLflow's aliases
and Triton follow the ledger, never the other way round.

So that a question costs the same number of requests however long the ledger is, `ledger/index.json` repeats in one file
a few words of each entry, a row an entry: of the first N entries there were, when it was written. It is no truth:

- Whoever asks reads the index, entry N, and entry N+1, N+2 and so on, until one is missing: so an index that lags is
  made up for. It lags where the writer of an entry died before it wrote the index, or an older regraft wrote the entry.
- An entry never changes, so the rows of the first N entries are always the same, whoever writes them and when. Of two
  writers the slower may put a shorter index over a longer one, which then lags; nothing is lost.
- Where the index is missing or damaged, or its last row is not that of entry N, all entries are read. That is so in a
  store that an older regraft wrote, and after a backup was restored; the next `append` writes the index anew.
- What a question answers is read from the entry itself, and the index is forgotten where the two differ.

Whether all entries are there is for `entries` to say, which reads every one: for the history, and for the doctor, who
compares the index too.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter

from regraft.errors import AlreadyExists, BadInput, NotFound, RegraftError
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
    model_digest: str | None = None
    """Of the finetune's result, as it was when it became champion. Entries written before have none."""
    verdict_digest: str | None = None
    """SHA-256 of that evaluation's verdict.json."""
    reason: str
    who: str
    at: AwareDatetime
    refused: int | None = None
    """The version that deploy could not roll out, where this entry takes it back."""

    @property
    def model_of(self) -> dict[str, Any]:
        """What another entry says of the same model."""
        return self.model_dump(include={"model", "run", "evaluation", "model_digest", "verdict_digest"})


def of_promoted(inputs: Mapping[str, str], run: str) -> dict[str, Any]:
    """What an entry says of the model of a run, by the inputs of the run's promote."""
    about = {key: inputs.get(key, "") for key in ("model", "evaluation")}
    return {**about, "run": run, "model_digest": inputs.get("model_digest"), "verdict_digest": inputs.get("verdict")}


class IndexRow(NamedTuple):
    """What the index repeats of an entry."""

    sequence: int
    kind: Kind
    version: int
    model: str
    run: str

    @classmethod
    def of(cls, entry: Entry) -> IndexRow:
        return cls(entry.sequence, entry.kind, entry.version, entry.model, entry.run)


class Moved(AlreadyExists):
    """Another writer changed the champion in between. Read the ledger again and decide again."""


def whoami(*, approved_by: str | None = None) -> str:
    """Who is promoting: the pod or task where there is one, else the user; and who approved, where somebody did."""
    who = os.environ.get("REGRAFT_WHO") or getpass.getuser()
    return f"{who}, approved by {approved_by}" if approved_by else who


class Ledger:
    """The ledger of one recipe. One object reads what never changes once, and looks anew what was added since.

    Args:
        store: the recipe's store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: tuple[list[IndexRow], Entry | None] | None = None
        """A row of each entry as it last was, and the newest entry."""
        self._read = dict[int, Entry]()
        self._still = False

    def now(self) -> Ledger:
        """The ledger as it is at this moment, for several questions about one state: it looks for nothing newer."""
        still = Ledger(self.store)
        still._known, still._read, still._still = self._now(), self._read, True
        return still

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Raises BadInput if one is missing or damaged."""
        names = [name for name in self.store.names("ledger") if re.fullmatch(r"\d{8}\.json", name)]
        texts = self.store.read_all([f"ledger/{name}" for name in names])
        entries = []
        for position, (name, text) in enumerate(zip(names, texts, strict=True), start=1):
            entry = self._parsed(name, text)
            if name != _name(position):
                raise self._gap(position)
            entries.append(entry)
        return entries

    def _entry(self, sequence: int) -> Entry | None:
        """One entry; None where it is missing. Raises BadInput if it is damaged."""
        try:
            text = self.store.read(f"ledger/{_name(sequence)}")
        except NotFound:
            return None
        return self._parsed(_name(sequence), text)

    def _parsed(self, name: str, text: bytes) -> Entry:
        try:
            entry = Entry.model_validate_json(text)
        except ValueError as error:
            raise self._damaged(name, f"is not a ledger entry: {error}") from error
        if name != _name(entry.sequence):
            raise self._damaged(name, f"says that it is entry {entry.sequence}: it was copied or renamed")
        return entry

    def _gap(self, sequence: int) -> RegraftError:
        return self._damaged(_name(sequence), "is missing: the ledger has a gap")

    def _damaged(self, name: str, what: str) -> RegraftError:
        return BadInput(
            what,
            where=self.store.where(f"ledger/{name}"),
            state="no promotion or rollback is possible until the ledger is whole; Triton serves on",
            next="restore the file from a backup or from the bucket's version history",
        )

    def index(self) -> list[IndexRow]:
        """The rows of the index; none where it is missing or damaged."""
        try:
            rows = INDEX.validate_json(self.store.read("ledger/index.json"))
        except (NotFound, BadInput, ValueError):
            return []
        return rows if [row.sequence for row in rows] == list(range(1, len(rows) + 1)) else []

    def write_index(self, entries: list[Entry]) -> None:
        """Writes the index anew, of all entries."""
        self._write_index([IndexRow.of(entry) for entry in entries])

    def _write_index(self, rows: list[IndexRow]) -> None:
        self.store.replace("ledger/index.json", b"[\n" + b",\n".join(map(ROW.dump_json, rows)) + b"\n]\n")

    def _now(self) -> tuple[list[IndexRow], Entry | None]:
        """A row of each entry as it is now, and the newest entry."""
        if self._still and self._known:
            return self._known
        rows, newest = self._known or self._indexed()
        added = list[Entry]()
        while entry := self._entry(len(rows) + len(added) + 1):
            added.append(entry)
        if added:
            rows, newest = [*rows, *map(IndexRow.of, added)], added[-1]
        self._known = rows, newest
        return self._known

    def _indexed(self) -> tuple[list[IndexRow], Entry | None]:
        """As `_now`, at the time at which the index was written; of all entries where it does not agree with them."""
        rows = self.index()
        newest = self._entry(len(rows)) if rows else None
        return (rows, newest) if newest and IndexRow.of(newest) == rows[-1] else self._whole()

    def _whole(self) -> tuple[list[IndexRow], Entry | None]:
        """As `_now`, without the index."""
        entries = self.entries()
        return [IndexRow.of(entry) for entry in entries], entries[-1] if entries else None

    def _chosen(self, choose: Callable[[list[IndexRow]], list[IndexRow]]) -> list[Entry]:
        """The entries whose rows are chosen. Raises BadInput if one is missing or damaged."""
        rows, newest = self._now()
        chosen, entries = choose(rows), list[Entry]()
        for row in chosen:
            entry = newest if newest and newest.sequence == row.sequence else self._read.get(row.sequence)
            entry = entry or self._entry(row.sequence)
            if entry is None:
                raise self._gap(row.sequence)
            self._read[row.sequence] = entry
            entries.append(entry)
        if [IndexRow.of(entry) for entry in entries] == chosen:
            return entries
        self._known = self._whole()  # the index lied
        self._read.clear()
        return self._chosen(choose)

    def _one(self, choose: Callable[[list[IndexRow]], list[IndexRow]]) -> Entry | None:
        return next(iter(self._chosen(choose)), None)

    def head(self) -> Entry | None:
        """The current champion: the newest entry. None before the first promotion, and after a withdrawal."""
        newest = self.newest()
        return newest if newest and newest.kind != "withdraw" else None

    def newest(self) -> Entry | None:
        """The newest entry, be it a withdrawal."""
        return self._now()[1]

    def append(
        self,
        after: Entry | None,
        *,
        kind: Kind,
        version: int,
        model: str,
        run: str,
        evaluation: str,
        model_digest: str | None = None,
        verdict_digest: str | None = None,
        reason: str,
        who: str | None = None,
        refused: int | None = None,
    ) -> Entry:
        """Adds the entry that follows `after`, the head.

        Raises:
            Moved: `after` is not the head any more.
        """
        rows, newest = self._now()
        if newest and not after and newest.kind != "withdraw":
            raise Moved("somebody became champion meanwhile", where=self.store.where("ledger"))
        if after and (newest is None or after.sequence != newest.sequence):
            raise self._taken(after.sequence + 1)
        entry = Entry(
            sequence=len(rows) + 1,
            kind=kind,
            version=version,
            model=model,
            run=run,
            evaluation=evaluation,
            model_digest=model_digest,
            verdict_digest=verdict_digest,
            reason=reason,
            who=who or whoami(),
            at=datetime.now(UTC),
            refused=refused,
        )
        text = entry.model_dump_json(indent=1, exclude_none=True)
        try:
            self.store.create(f"ledger/{_name(entry.sequence)}", text.encode())
        except AlreadyExists as error:
            raise self._taken(entry.sequence) from error
        self._known = [*rows, IndexRow.of(entry)], entry
        with suppress(RegraftError):  # the entry counts without it
            self._write_index(self._known[0])
        return entry

    def _taken(self, sequence: int) -> Moved:
        where = self.store.where("ledger")
        return Moved(f"another promotion took ledger entry {sequence} first", where=where)

    def again(self, after: Entry | None, of: Entry, *, kind: Kind, reason: str, refused: int | None = None) -> Entry:
        """Adds an entry for the model of an earlier one: it goes back to it, or takes it back. Raises Moved."""
        return self.append(after, kind=kind, version=of.version, reason=reason, refused=refused, **of.model_of)

    def champion(self, model: str) -> Entry | None:
        """The entry by which a model first became champion; None where it never did, or was withdrawn."""
        return self._one(lambda rows: [row for row in _champions(rows) if row.model == model][:1])

    def opponent(self, model: str) -> Entry | None:
        """The champion that a challenger is compared with.

        The current one; but a model that is in the ledger already is compared with the one it replaced, so that
        running its run again repeats its verdict instead of comparing it with itself.
        """

        def choose(rows: list[IndexRow]) -> list[IndexRow]:
            first = next((i for i, row in enumerate(rows) if row.model == model), len(rows))
            return [row for row in rows[:first][-1:] if row.kind != "withdraw"]

        return self._one(choose)

    def before(self, run: str) -> Entry | None:
        """The newest champion of an earlier run: what fresh data is compared with, also when a run is repeated."""
        return next(iter(self.earlier(run, 1)), None)

    def earlier(self, run: str, count: int) -> list[Entry]:
        """The newest champions of earlier runs, so many at most, oldest first."""
        return self._chosen(lambda rows: [row for row in _champions(rows) if row.run < run][-count:])

    def version(self, version: int) -> Entry | None:
        """The newest entry of a registry version."""
        return self._one(lambda rows: [row for row in rows if row.version == version][-1:])

    def of(self, model: str) -> list[Entry]:
        """All entries of a model, oldest first."""
        return self._chosen(lambda rows: [row for row in rows if row.model == model])

    def latest(self, count: int, *, until: int | None = None) -> list[Entry]:
        """The newest entries, oldest first; those that were the newest when there were `until`, where that is given."""
        return self._chosen(lambda rows: rows[:until][-count:])

    def replaced(self) -> Entry | None:
        """The newest entry of another version than that of the newest entry."""
        return self._one(lambda rows: [row for row in rows if row.version != rows[-1].version][-1:])

    def previous(self) -> Entry | None:
        """What a rollback returns to: the champion before the head's model first became champion."""

        def choose(rows: list[IndexRow]) -> list[IndexRow]:
            if not rows or rows[-1].kind == "withdraw":
                return []
            model, champions = rows[-1].model, _champions(rows)
            first = next(i for i, row in enumerate(champions) if row.model == model)
            return champions[:first][-1:]

        return self._one(choose)


INDEX, ROW = TypeAdapter(list[IndexRow]), TypeAdapter(IndexRow)


def _name(sequence: int) -> str:
    """Name of an entry's file."""
    return f"{sequence:08}.json"


def _champions(rows: list[IndexRow]) -> list[IndexRow]:
    """The rows without those that were withdrawn, and their withdrawals."""
    kept: list[IndexRow] = []
    for row in rows:
        if row.kind == "withdraw":
            del kept[-1:]
        else:
            kept.append(row)
    return kept
