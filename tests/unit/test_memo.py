"""What is kept beside results: made once for what determines it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regraft import closure, pipeline
from regraft.memo import Memo
from regraft.store import Store


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    store = Store(str(tmp_path), "tiny")
    return Memo(store=store, kind="scores", code="regraft.contest", task="text-classification")


def never() -> bytes:
    raise AssertionError("made anew")


def test_it_is_made_once_for_the_same_inputs_and_anew_for_others(memo: Memo) -> None:
    assert memo.get("model", {"texts": "a"}, lambda: b"one", bytes) == b"one"
    assert memo.get("model", {"texts": "a"}, never, bytes) == b"one"
    assert memo.get("model", {"texts": "b"}, lambda: b"two", bytes) == b"two"
    assert [name.startswith("model-") for name in memo.store.names("scores")] == [True, True]


def test_other_code_and_another_version_of_a_library_make_it_anew(memo: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {memo.key("model", {})}
    with monkeypatch.context() as changed:
        changed.setattr(closure, "digest", lambda *_, **__: "edited")
        keys.add(replace(memo).key("model", {}))
    monkeypatch.setattr(pipeline, "_version", lambda _: "99.0")
    keys.add(replace(memo).key("model", {}))
    assert len(keys) == 3


def test_of_two_that_are_made_at_once_both_get_the_first(memo: Memo) -> None:
    def overtaken() -> bytes:
        memo.store.create(memo.key("model", {}), b"first")
        return b"second"

    assert memo.get("model", {}, overtaken, bytes) == b"first"
