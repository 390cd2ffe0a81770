"""The ledger's rules, against a model of it that hypothesis drives; and what happens when it is damaged."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from regraft import pipeline
from regraft import recipe as recipes
from regraft import step as steps
from regraft.errors import BadInput
from regraft.ledger import Entry, Ledger, Moved
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL


def ledger_in(folder: Path | str) -> Ledger:
    return Ledger(Store(str(folder), "tiny"))


def append(ledger: Ledger, after: Entry | None, model: str, *, run: str = "r", **more: Any) -> Entry:
    version = more.pop("version", None) or int(model.removeprefix("m") or 1)
    fields = {"kind": "promote", "evaluation": f"e-{model}", "reason": "test", **more}
    return ledger.append(after, version=version, model=model, run=run, **fields)


class History(RuleBasedStateMachine):
    """Promotions, repeated promotions, rollbacks and late writers, in any order; `champions` is what must be there."""

    seen = Bundle("seen")
    """Heads that some writer has read, the current one among them or not."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = ledger_in(self._folder.name)
        self.champions: list[str] = []
        self.newest = 0

    def teardown(self) -> None:
        self._folder.cleanup()

    @initialize(target=seen)
    def nobody_yet(self) -> None:
        return None

    @rule(target=seen)
    def read_the_head(self) -> Entry | None:
        return self.ledger.head()

    @rule(head=seen)
    def promote_a_new_model(self, head: Entry | None) -> None:
        self._append(head, f"m{self.newest + 1}", "promote")

    @rule(head=seen, chosen=st.integers(min_value=0))
    def promote_an_earlier_model_again(self, head: Entry | None, chosen: int) -> None:
        if self.champions:
            self._append(head, self.champions[chosen % len(self.champions)], "promote")

    @rule()
    def roll_back(self) -> None:
        previous = self.ledger.previous()
        if previous is not None:
            self._append(self.ledger.head(), previous.model, "rollback")

    def _append(self, head: Entry | None, model: str, kind: str) -> None:
        """Works exactly when the writer knew the current head; a late writer changes nothing."""
        if (head.sequence if head else 0) == len(self.champions):
            entry = append(self.ledger, head, model, kind=kind, run=f"run-{model}")
            assert entry.sequence == len(self.champions) + 1
            self.champions.append(model)
            self.newest = max(self.newest, entry.version)
        else:
            with pytest.raises(Moved):
                append(self.ledger, head, model, kind=kind)

    @invariant()
    def there_is_no_gap_and_no_double(self) -> None:
        entries = self.ledger.entries()
        assert [entry.sequence for entry in entries] == list(range(1, len(self.champions) + 1))
        assert [entry.model for entry in entries] == self.champions
        assert self.ledger.head() == (entries[-1] if entries else None)

    @invariant()
    def a_new_challenger_meets_the_head_and_a_champion_the_one_it_replaced(self) -> None:
        assert self.ledger.opponent("unknown") == self.ledger.head()
        for model in set(self.champions):
            first = self.champions.index(model)
            opponent = self.ledger.opponent(model)
            assert (opponent.sequence if opponent else 0) == first

    @invariant()
    def a_rollback_returns_to_another_model_that_was_champion_before_this_one_ever_was(self) -> None:
        previous = self.ledger.previous()
        earlier = self.champions[: self.champions.index(self.champions[-1])] if self.champions else []
        assert (previous.model if previous else None) == (earlier[-1] if earlier else None)

    @invariant()
    def a_version_is_found_by_its_number(self) -> None:
        for model in set(self.champions):
            entry = self.ledger.version(int(model[1:]))
            assert entry is not None
            assert entry.model == model
            assert entry.sequence == len(self.champions) - self.champions[::-1].index(model), "the newest of them"


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_what_fresh_data_is_compared_with_is_the_newest_champion_of_an_earlier_run(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    assert ledger.before("2026-11-24T03-00") is None
    first = append(ledger, None, "m1", run="2026-11-10T03-00")
    second = append(ledger, first, "m2", run="2026-11-17T03-00")
    append(ledger, second, "m3", run="2026-11-24T03-00")
    assert ledger.before("2026-11-24T03-00") == second, "also when the run is repeated after its own promotion"
    assert ledger.before("2026-11-17T03-00") == first
    assert ledger.before("2026-11-10T03-00") is None


def test_after_a_withdrawal_there_is_no_champion_and_the_next_one_meets_none(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    first = append(ledger, None, "m1", run="2026-11-10T03-00")
    withdrawn = append(ledger, first, "m1", kind="withdraw", run=first.run)
    assert (ledger.head(), ledger.previous(), ledger.newest()) == (None, None, withdrawn)
    assert ledger.opponent("m2") is None
    assert ledger.before("2026-11-24T03-00") is None, "what nobody was served by is nothing to compare with"
    with pytest.raises(Moved):
        append(ledger, first, "m2")
    second = append(ledger, None, "m2", run="2026-11-17T03-00")
    assert (second.sequence, ledger.head()) == (3, second)
    assert ledger.opponent("m2") is None, "its run repeats its verdict"
    assert ledger.previous() is None, "a rollback never goes back to what could not be served"
    with pytest.raises(Moved):
        append(ledger, None, "m3")
    again = append(ledger, second, "m1")
    assert ledger.head() == again
    assert ledger.version(1) == again


def test_of_twenty_promoters_after_the_same_head_one_writes(tmp_path: Path) -> None:
    ledger, barrier = ledger_in(tmp_path), threading.Barrier(20)
    head = append(ledger, None, "m99")

    def one(i: int) -> bool:
        barrier.wait()
        try:
            append(ledger_in(tmp_path), head, f"m{i + 1}")
        except Moved:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(one, range(20)))
    assert won.count(True) == 1
    assert [entry.model for entry in ledger.entries()] == ["m99", f"m{won.index(True) + 1}"]


def test_the_ledger_as_it_is_now_answers_of_one_state_whatever_is_added(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    now = ledger.now()
    first = append(ledger, None, "m1")
    assert (now.head(), now.champion("m1")) == (None, None)
    now = ledger.now()
    append(ledger, first, "m2")
    assert (now.head(), now.replaced(), now.opponent("m2")) == (first, None, first)
    with pytest.raises(Moved):
        append(now, first, "m3")


def test_an_entry_says_who_and_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_WHO", "pod retrain-7")
    entry = append(ledger_in(tmp_path), None, "m1")
    assert entry.who == "pod retrain-7"
    assert entry.at.utcoffset() is not None


def three(folder: Path) -> Ledger:
    ledger, head = ledger_in(folder), None
    for number in (1, 2, 3):
        head = append(ledger, head, f"m{number}")
    return ledger


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a ledger entry"),
        (b'{"sequence": 2, "kind"', "is not a ledger entry"),
        (b'{"sequence": 2, "kind": "promote"}', "is not a ledger entry"),
        (b"\x00\xff", "is not a ledger entry"),
    ],
)
def test_a_damaged_entry_is_a_clear_error_and_nothing_is_guessed(tmp_path: Path, content: bytes, says: str) -> None:
    ledger = three(tmp_path)
    (tmp_path / "tiny/ledger/00000002.json").write_bytes(content)
    for ask in (ledger.entries, ledger.previous, lambda: ledger.opponent("m3"), lambda: ledger.version(2)):
        with pytest.raises(BadInput, match=says) as raised:
            ask()
        assert str(raised.value.where).endswith("ledger/00000002.json")
        assert "no promotion or rollback is possible" in str(raised.value.state)
        assert "restore the file" in str(raised.value.next)


def test_a_damaged_newest_entry_is_a_clear_error_whoever_asks(tmp_path: Path) -> None:
    three(tmp_path)
    (tmp_path / "tiny/ledger/00000003.json").write_bytes(b"{")
    ledger = ledger_in(tmp_path)
    asked: list[Callable[[], Any]] = [ledger.entries, ledger.head, ledger.previous, lambda: ledger.champion("m1")]
    for ask in (*asked, lambda: append(ledger, None, "m4")):
        with pytest.raises(BadInput, match="is not a ledger entry"):
            ask()


@pytest.mark.parametrize("lost", [1, 2])
def test_a_missing_entry_is_a_clear_error(tmp_path: Path, lost: int) -> None:
    ledger = three(tmp_path)
    (tmp_path / f"tiny/ledger/{lost:08}.json").unlink()
    for ask in (ledger.entries, lambda: ledger.version(lost)):
        with pytest.raises(BadInput, match="the ledger has a gap") as raised:
            ask()
        assert str(raised.value.where).endswith(f"ledger/{lost:08}.json")


def test_an_entry_under_another_number_is_a_clear_error(tmp_path: Path) -> None:
    three(tmp_path)
    entry = tmp_path / "tiny/ledger/00000003.json"
    entry.write_bytes((tmp_path / "tiny/ledger/00000002.json").read_bytes())
    with pytest.raises(BadInput, match="says that it is entry 2"):
        ledger_in(tmp_path).head()


def test_half_written_entries_of_a_process_that_died_do_not_count(tmp_path: Path) -> None:
    ledger = three(tmp_path)
    (tmp_path / "tiny/ledger/.tmp-0123").write_text("{")
    assert len(ledger.entries()) == 3


def test_what_a_champion_stands_on_is_never_done_again_though_somebody_forces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_FORCE", "1")
    store = Store(str(tmp_path), "tiny")
    first = append(Ledger(store), None, "m1")
    append(Ledger(store), first, "m1", kind="rollback", evaluation="e-later")

    def forced(step: str, identity: str, **inputs: str) -> bool:
        about = {"store": store, "run": "r", "scratch": tmp_path, "identity": identity, "inputs": inputs}
        return steps._forced(steps.Work(recipe=recipes.parse(MINIMAL), step=pipeline.step(step), **about))

    assert not forced("finetune", "m1", train="t")
    assert not forced("evaluate", "e-m1", model="m1")
    assert not forced("evaluate", "e-later", model="m1")
    assert forced("finetune", "m2", train="t")
    assert forced("evaluate", "e-m2", model="m1")
    assert forced("validate", "v", source="s")
