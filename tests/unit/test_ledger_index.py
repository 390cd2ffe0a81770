"""The ledger's index saves requests and is no truth, whoever died before it was written, or wrote it late."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft.errors import BadInput, Temporary
from regraft.ledger import Entry, IndexRow, Ledger, Moved
from regraft.store import Store
from tests.unit.test_ledger import append, ledger_in

INDEX = "tiny/ledger/index.json"


def straightforward(entries: list[Entry], models: list[str], runs: list[str]) -> dict[str, Entry | None]:
    """What every question answers, read from all entries."""
    champions: list[Entry] = []
    for entry in entries:
        if entry.kind == "withdraw":
            champions.pop()
        else:
            champions.append(entry)
    newest = entries[-1] if entries else None
    found = {"newest": newest, "head": newest if newest and newest.kind != "withdraw" else None, "previous": None}
    if newest and newest.kind != "withdraw":
        first = next(i for i, entry in enumerate(champions) if entry.model == newest.model)
        found["previous"] = next((e for e in reversed(champions[:first]) if e.model != newest.model), None)
    others = [entry for entry in entries if newest and entry.version != newest.version]
    found["replaced"] = others[-1] if others else None
    for model in models:
        found[f"champion {model}"] = next((entry for entry in champions if entry.model == model), None)
        at = next((i for i, entry in enumerate(entries) if entry.model == model), None)
        before = entries[:at][-1:]
        found[f"opponent {model}"] = before[0] if before and before[0].kind != "withdraw" else None
        version = int(model[1:])
        found[f"version {version}"] = next((e for e in reversed(entries) if e.version == version), None)
    for run in runs:
        found[f"before {run}"] = next((entry for entry in reversed(champions) if entry.run < run), None)
    return found


def asked(ledger: Ledger, models: list[str], runs: list[str]) -> dict[str, Entry | None]:
    """The same, asked of the ledger."""
    found = {name: getattr(ledger, name)() for name in ("newest", "head", "previous", "replaced")}
    for model in models:
        found[f"champion {model}"] = ledger.champion(model)
        found[f"opponent {model}"] = ledger.opponent(model)
        found[f"version {int(model[1:])}"] = ledger.version(int(model[1:]))
    return found | {f"before {run}": ledger.before(run) for run in runs}


MODELS = [f"m{number}" for number in range(1, 6)]
RUNS = [f"r{number}" for number in range(6)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["promote", "rollback", "withdraw"]), st.sampled_from(MODELS[:-1]), st.sampled_from(RUNS)
    ),
    max_size=12,
)
LOST = st.lists(st.sampled_from(["kept", "missing", "damaged", "of the first", "late"]), min_size=12, max_size=12)


@given(steps=STEPS, lost=LOST, fresh=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_index_is_like_every_question_is_answered_as_all_entries_say(
    steps: list[tuple[Literal["promote", "rollback", "withdraw"], str, str]], lost: list[str], fresh: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index, ledger, written = Path(folder) / INDEX, ledger_in(folder), [b"[]"]
        for (kind, model, run), becomes in zip(steps, lost, strict=False):
            head = ledger.head()
            if kind == "withdraw" and head:
                ledger.again(head, head, kind=kind, reason="test")
            elif kind != "withdraw":
                append(ledger, head, model, kind=kind, run=run)
            else:
                continue
            written.append(index.read_bytes())
            if becomes == "missing":
                index.unlink()
            elif becomes == "damaged":
                index.write_bytes(written[-1][: len(written[-1]) // 2])
            elif becomes != "kept":
                index.write_bytes(written[1 if becomes == "of the first" else -2])
            ledger = ledger_in(folder) if fresh else ledger
        expected = straightforward(ledger_in(folder).entries(), MODELS, RUNS)
        assert asked(ledger, MODELS, RUNS) == expected
        assert asked(ledger_in(folder), MODELS, RUNS) == expected
        for model in MODELS:
            assert ledger.of(model) == [entry for entry in ledger.entries() if entry.model == model]


class Died(BaseException):
    """The process is killed."""


class Frail(Store):
    """A store in which one write, and all after it, do not happen; or which loses the answer to it."""

    def __init__(self, url: str, *, writes: int, error: BaseException, answer_only: bool) -> None:
        super().__init__(url, "tiny")
        self.left, self.error, self.answer_only = writes, error, answer_only

    def create(self, key: str, data: bytes) -> None:
        self._dying(super().create, key, data)

    def replace(self, key: str, data: bytes) -> None:
        self._dying(super().replace, key, data)

    def _dying(self, write: Callable[[str, bytes], None], key: str, data: bytes) -> None:
        self.left -= 1
        if self.left >= 0 or (self.left == -1 and self.answer_only):
            write(key, data)
        if self.left < 0:
            raise self.error


@pytest.mark.parametrize("answer_only", [False, True])
@pytest.mark.parametrize("writes", [0, 1])
def test_a_writer_killed_at_any_write_leaves_a_ledger_in_which_all_is_found(
    tmp_path: Path, writes: int, answer_only: bool
) -> None:
    first = append(ledger_in(tmp_path), None, "m1")
    dying = Ledger(Frail(str(tmp_path), writes=writes, error=Died(), answer_only=answer_only))
    with pytest.raises(Died):
        append(dying, first, "m2")
    counts = writes == 1 or answer_only
    ledger = ledger_in(tmp_path)
    assert [entry.model for entry in ledger.entries()] == (["m1", "m2"] if counts else ["m1"])
    assert asked(ledger, MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS)
    append(ledger, ledger.head(), "m3")
    assert [row.model for row in ledger.index()] == [entry.model for entry in ledger.entries()]
    assert asked(ledger_in(tmp_path), MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS)


def test_an_entry_counts_although_the_index_could_not_be_written(tmp_path: Path) -> None:
    first = append(ledger_in(tmp_path), None, "m1")
    away = Frail(str(tmp_path), writes=1, error=Temporary("the store cannot be reached"), answer_only=False)
    second = append(Ledger(away), first, "m2")
    assert ledger_in(tmp_path).head() == second
    assert [row.model for row in ledger_in(tmp_path).index()] == ["m1"]


def test_a_writer_that_wakes_late_loses_nothing(tmp_path: Path) -> None:
    class Slow(Store):
        """Others promote before its index is written."""

        def replace(self, key: str, data: bytes) -> None:
            for model in ("m3", "m2"):
                append(ledger_in(tmp_path), ledger_in(tmp_path).head(), model)
            super().replace(key, data)

    first = append(ledger_in(tmp_path), None, "m1")
    second = append(Ledger(Slow(str(tmp_path), "tiny")), first, "m2")
    ledger = ledger_in(tmp_path)
    assert [row.sequence for row in ledger.index()] == [1, 2], "it put its shorter index over the longer one"
    assert [entry.model for entry in ledger.entries()] == ["m1", "m2", "m3", "m2"]
    assert asked(ledger, MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS)
    with pytest.raises(Moved):
        append(ledger, second, "m4")


def test_an_index_ahead_of_the_entries_is_no_truth(tmp_path: Path) -> None:
    ledger, head = ledger_in(tmp_path), None
    for model in ("m1", "m2", "m3"):
        head = append(ledger, head, model)
    (tmp_path / "tiny/ledger/00000003.json").unlink()
    ledger = ledger_in(tmp_path)
    assert asked(ledger, MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS)
    append(ledger, ledger.head(), "m4")
    assert [row.model for row in ledger.index()] == ["m1", "m2", "m4"]


def test_what_is_answered_is_read_from_the_entry_whatever_its_row_says(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    append(ledger, append(ledger, None, "m1"), "m2")
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes().replace(b'1,"m1"', b'5,"m5"'))
    assert ledger.index() != [IndexRow.of(entry) for entry in ledger.entries()], "which the doctor sees"
    for ask in (Ledger.previous, lambda ledger: ledger.version(5), lambda ledger: ledger.champion("m5")):
        ledger = ledger_in(tmp_path)
        assert ask(ledger) in (None, ledger.entries()[0])
        assert asked(ledger, MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS), "nor is it asked again"


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"[[1]]", b'[["1", "promote", 1, "m1", "r"]]', b'[[2,"promote",2,"m2","r"]]']
)
def test_an_index_that_is_none_is_read_past_and_written_anew(tmp_path: Path, content: bytes) -> None:
    ledger = ledger_in(tmp_path)
    append(ledger, append(ledger, None, "m1"), "m2")
    (tmp_path / INDEX).write_bytes(content)
    ledger = ledger_in(tmp_path)
    assert asked(ledger, MODELS, RUNS) == straightforward(ledger.entries(), MODELS, RUNS)
    append(ledger, ledger.head(), "m3")
    assert ledger.index() == [IndexRow.of(entry) for entry in ledger.entries()]


class Counting(Store):
    """A store that counts what is asked of it."""

    asked = 0

    def read(self, key: str) -> bytes:
        self.asked += 1
        return super().read(key)

    def names(self, key: str) -> list[str]:
        self.asked += 1
        return super().names(key)

    def create(self, key: str, data: bytes) -> None:
        self.asked += 1
        super().create(key, data)

    def replace(self, key: str, data: bytes) -> None:
        self.asked += 1
        super().replace(key, data)


def requests(folder: Path, entries: int) -> dict[str, int]:
    """What each question costs on a ledger of that many entries that an older regraft wrote, but for the last."""
    store = Counting(str(folder), "tiny")
    first = append(Ledger(store), None, "m1")
    for number in range(2, entries):
        about: dict[str, Any] = {"sequence": number, "model": f"m{number}", "version": number, "run": f"r{number}"}
        entry = first.model_copy(update=about)
        store.create(f"ledger/{number:08}.json", entry.model_dump_json().encode())
    (folder / INDEX).unlink()
    append(Ledger(store), Ledger(store).head(), f"m{entries}", run="r")

    @contextmanager
    def counted(name: str) -> Iterator[None]:
        store.asked = 0
        yield
        found[name] = store.asked

    found: dict[str, int] = {}
    middle = entries // 2
    questions: dict[str, Callable[[Ledger], Any]] = {
        "head": Ledger.head,
        "newest": Ledger.newest,
        "previous": Ledger.previous,
        "replaced": Ledger.replaced,
        "champion": lambda ledger: ledger.champion(f"m{middle}"),
        "no champion": lambda ledger: ledger.champion("unknown"),
        "opponent": lambda ledger: ledger.opponent(f"m{middle}"),
        "before": lambda ledger: ledger.before("s"),
        "version": lambda ledger: ledger.version(middle),
        "append": lambda ledger: append(ledger, ledger.head(), "m1"),
    }
    for name, question in questions.items():
        with counted(name):
            question(Ledger(store))
    with counted("four questions of one"):
        ledger = Ledger(store)
        assert ledger.head() == ledger.newest() == ledger.opponent("unknown")
        assert ledger.champion("unknown") is None
    return found


def test_a_question_costs_as_many_requests_at_a_thousand_entries_as_at_ten(tmp_path: Path) -> None:
    at_ten = requests(tmp_path / "ten", 10)
    assert requests(tmp_path / "thousand", 1000) == at_ten
    assert (at_ten["head"], at_ten["previous"], at_ten["no champion"]) == (3, 4, 3)
    assert (at_ten["append"], at_ten["four questions of one"]) == (6, 6)


def test_a_gap_that_nobody_meets_is_for_the_doctor_to_find(tmp_path: Path) -> None:
    ledger, head = ledger_in(tmp_path), None
    for model in ("m1", "m2", "m3"):
        head = append(ledger, head, model)
    (tmp_path / "tiny/ledger/00000001.json").unlink()
    assert ledger_in(tmp_path).head() == head
    with pytest.raises(BadInput, match="the ledger has a gap"):
        ledger_in(tmp_path).entries()
