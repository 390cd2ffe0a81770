"""Approvals: the record that somebody let a model become champion, where its recipe says `promotion: approval`.

It is created exclusively, of one model and one evaluation of it, so that nobody's approval is replaced, and an approval
counts for what was looked at.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict

from regraft.digests import sha256
from regraft.errors import AlreadyExists, BadInput, NotFound
from regraft.ledger import whoami
from regraft.store import Store


class Approval(BaseModel):
    """Who approved what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Identity of the finetune."""
    evaluation: str
    """Identity of the evaluate step whose verdict was looked at."""
    version: int | None = None
    """Version in the MLflow registry, where it was registered by then."""
    run: str
    who: str
    at: AwareDatetime
    reason: str | None = None

    @property
    def digest(self) -> str:
        return sha256(self.model_dump(mode="json"))


def of(store: Store, *, model: str, evaluation: str) -> Approval | None:
    """The approval of a model by its evaluation; None where nobody has approved. Raises BadInput if it is damaged."""
    key = _key(model, evaluation)
    try:
        return Approval.model_validate_json(store.read(key))
    except NotFound:
        return None
    except ValueError as error:
        raise BadInput(
            f"is not an approval: {error}",
            where=store.where(key),
            state="nothing is promoted by it",
            next=f"remove {store.where(key)}, and approve again",
        ) from error


def approve(
    store: Store,
    *,
    model: str,
    evaluation: str,
    run: str,
    version: int | None = None,
    who: str | None = None,
    reason: str | None = None,
) -> Approval:
    """Records an approval, and gives the record that stands: of two the first."""
    approval = Approval(
        model=model,
        evaluation=evaluation,
        run=run,
        version=version,
        who=who or whoami(),
        at=datetime.now(UTC),
        reason=reason,
    )
    try:
        store.create(_key(model, evaluation), approval.model_dump_json(indent=1, exclude_none=True).encode())
    except AlreadyExists:
        return of(store, model=model, evaluation=evaluation) or approval
    return approval


def asked(store: Store, *, model: str, evaluation: str, run: str) -> Approval | None:
    """What a runner's answer or the store says: a runner that asks before promote names who approved to the step, by
    REGRAFT_APPROVED_BY, and the step records it."""
    if who := os.environ.get("REGRAFT_APPROVED_BY"):
        return approve(store, model=model, evaluation=evaluation, run=run, who=who)
    return of(store, model=model, evaluation=evaluation)


def _key(model: str, evaluation: str) -> str:
    return f"approvals/{sha256({'model': model, 'evaluation': evaluation})}.json"
