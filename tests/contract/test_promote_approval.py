"""promote where the recipe asks for an approval."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from regraft import approval, snapshot
from regraft.errors import Exit
from tests import challengers
from tests.contract.promoting import Promote, aliases, champion, patched, versions
from tests.worlds import LATER, Tiny


def test_with_approval_it_registers_and_waits_until_somebody_promotes_it(
    tiny: Tiny, client: Any, promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.declare(more="promotion: approval")
    model = challengers.make(tiny, "a", run=LATER, right=0.6)
    assert promote(LATER) == Exit.REFUSED
    assert "waiting for approval: regraft promote tiny --version 1" in capsys.readouterr().err
    assert tiny.ledger.entries() == []
    assert aliases(client) == {"challenger": 1}
    assert tiny.pointer("promote", LATER)["refused_by"] == "approval"
    assert promote(LATER) == Exit.REFUSED
    assert tiny.pointer("promote", LATER)["cached"] is True
    assert versions(client) == [1]
    tiny.ledger.append(
        None,
        kind="promote",
        version=1,
        model=model.identity,
        run=LATER,
        evaluation=tiny.pointer("evaluate", LATER)["identity"],
        reason="approved by hand",
    )
    assert promote(LATER) == Exit.DONE
    assert aliases(client) == {"champion": 1}
    assert [entry.reason for entry in tiny.ledger.entries()] == ["approved by hand"]


def approve(tiny: Tiny, who: str, reason: str | None = None) -> None:
    about = {step: tiny.pointer(step, LATER)["identity"] for step in ("finetune", "evaluate")}
    found = {"model": about["finetune"], "evaluation": about["evaluate"]}
    approval.approve(tiny.store, **found, run=LATER, who=who, reason=reason)


def better_than_the_champion(tiny: Tiny, client: Any) -> None:
    """Leaves a second challenger that evaluate would promote, and whose recipe asks for an approval."""
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    tiny.declare(more="promotion: approval")
    challengers.make(tiny, "second", run=LATER, right=0.9, opponent=first)


def test_what_was_approved_is_promoted_and_the_store_says_by_whom_and_that_it_was_asked(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    better_than_the_champion(tiny, client)
    assert promote(LATER) == Exit.REFUSED
    approve(tiny, "ana", "read the report")
    monkeypatch.setenv("REGRAFT_WHO", "pod promote-1")
    assert promote(LATER) == Exit.DONE
    head = tiny.ledger.head()
    assert head is not None
    assert (head.version, head.who) == (2, "pod promote-1, approved by ana")
    assert head.reason.endswith(" Approved: read the report")
    assert tiny.result("promote", LATER).refused is None
    assert snapshot.of_run(tiny.store, LATER).promotion == "approval", "the recipe is the one that people wrote"
    assert promote(LATER) == Exit.DONE
    assert tiny.pointer("promote", LATER)["cached"] is True
    assert len(tiny.ledger.entries()) == 2


def test_a_first_challenger_that_was_approved_is_handed_over_with_who_approved_it(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.declare(more="promotion: approval")
    challengers.make(tiny, "a", run=LATER, right=0.6)
    monkeypatch.setenv("REGRAFT_APPROVED_BY", "ana")
    assert promote(LATER) == Exit.DONE
    assert tiny.result("promote", LATER).metrics["approved_by"] == "ana"
    monkeypatch.setenv("REGRAFT_APPROVED_BY", "bob")
    assert promote(LATER) == Exit.DONE
    assert tiny.pointer("promote", LATER)["cached"] is True, "the first approval is the one that stands"


def test_an_approval_is_of_one_evaluation(tiny: Tiny, client: Any, promote: Promote) -> None:
    tiny.declare(more="promotion: approval")
    model = challengers.make(tiny, "a", run=LATER, right=0.7)
    approve(tiny, "ana")
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.judge(tiny, model, run=LATER, opponent=first)
    assert promote(LATER) == Exit.REFUSED
    assert tiny.pointer("promote", LATER)["refused_by"] == "approval"


@pytest.mark.slow
def test_an_approval_survives_that_promote_is_killed_before_its_entry(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    better_than_the_champion(tiny, client)
    die = "from regraft.ledger import Ledger\nLedger.append = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    with monkeypatch.context() as answered:
        answered.setenv("REGRAFT_APPROVED_BY", "ana")
        code, output = patched(tiny, die, run=LATER)
    assert code == -signal.SIGKILL, output
    assert len(tiny.ledger.entries()) == 1
    assert promote(LATER) == Exit.DONE
    head = tiny.ledger.head()
    assert head is not None
    assert head.who.endswith(", approved by ana")
    assert versions(client) == [1, 2]
