"""Whatever a store holds, and whoever wrote it, reading it ends in a value, or in an error that names the object."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from components.deploy import golden, rollout
from components.promote import describe, package
from regraft import approval, contest, pipeline, snapshot, step, summary
from regraft.cli import champions
from regraft.errors import BadInput, RegraftError
from regraft.ledger import Ledger
from regraft.memo import Memo
from regraft.store import Store

SOME = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
FIRST, SECOND = "2026-11-23T03-00", "2026-12-21T03-00"


class World:
    """A store as it is after two champions, with one of everything that it may hold, and a folder around it."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(Path(__file__).parents[1] / "contract" / "old_store.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        self.folder, self.store = folder, Store(str(folder / "store"), "tiny")
        self.ledger.write_index(self.ledger.entries())
        self.recipe_sha256 = snapshot.keep(self.store, (folder / "tiny.yaml").read_bytes())
        for name in NAMES:
            key = f"runs/{SECOND}/{name}.json"
            pointer = {**self.store.read_json(key), "recipe_sha256": self.recipe_sha256}
            self.store.replace(key, json.dumps(pointer).encode())
        head = self.ledger.head()
        assert head is not None
        self.head = head
        self.trained = step.result_of(self.store, "finetune", head.model)
        self.recipe = snapshot.of_run(self.store, SECOND)
        approval.approve(self.store, model=head.model, evaluation=head.evaluation, run=SECOND, who="somebody")
        package.prove(self.store, self.trained, logged="m-1", files="0" * 64)
        rows = pa.table({"text": ["a film", "a book"]})
        file = io.BytesIO()
        pq.write_table(rows, file)
        kept = {"rows": rows.to_pylist(), "answers": rows.to_pylist()}
        made_from = {"model": head.model, "digest": head.model_digest or "", "run": head.run}
        memo = Memo(store=self.store, kind="golden", code="components.deploy.golden", task=self.recipe.task)
        self.store.create(memo.key(head.model, made_from), json.dumps(kept).encode())
        self.asked = rows
        memo = contest.kept_answers(self.store, self.recipe.task)
        made_from = {"texts": "of-rows", "model": self.trained.digest}
        self.store.create(memo.key(head.model, made_from), file.getvalue())
        keys = sorted(str(file.relative_to(folder / "store" / "tiny")) for file in self.files("store/tiny"))
        parsed = [key for key in keys if "/attempt-" not in key or key.endswith(("verdict.json", "validation.json"))]
        self.keys = [list(of) for _, of in groupby(parsed, key=lambda key: key.partition("/")[0])]
        """What readers take apart, by its folder."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def path(self, key: str) -> Path:
        return self.folder / "store" / "tiny" / key

    def files(self, below: str = "") -> list[Path]:
        return [file for file in (self.folder / below).rglob("*") if file.is_file()]

    def state(self) -> dict[str, int]:
        """All files around and in the store and when they were written, but for those that were fetched."""
        around = (file for file in self.folder.parent.rglob("*") if not file.is_relative_to(self.folder / "fetched"))
        return {str(file): file.stat().st_mtime_ns for file in around if file.is_file()}

    def forge(self, key: str, content: bytes) -> list[tuple[Path, bytes]]:
        """Puts content under a key; where it is a file of a result, the manifest names its digest from then on.

        Returns:
            What is to be put back.
        """
        before = [(self.path(key), self.path(key).read_bytes())]
        self.path(key).write_bytes(content)
        place, _, attempt = key.partition("/attempt-")
        if attempt:
            manifest = self.path(f"{place}/manifest.json")
            before.append((manifest, manifest.read_bytes()))
            before_it = hashlib.sha256(before[0][1]).hexdigest().encode()
            manifest.write_bytes(before[1][1].replace(before_it, hashlib.sha256(content).hexdigest().encode()))
        return before

    def fetched(self, run: str, name: str) -> Any:
        manifest = step.upstream(self.store, run, name)
        self.store.fetch(f"{name}/{manifest.identity}", manifest, self.folder / "fetched" / name)
        return manifest.inputs, manifest.digest

    def shown(self) -> None:
        facts = summary.facts(self.recipe, self.store, SECOND, {})
        json.dumps(facts)
        Console(file=io.StringIO(), width=100).print(summary.render(facts))

    def described(self) -> None:
        about = {"model": self.head.model, "run": self.head.run, "evaluation": self.head.evaluation}
        described = describe.version(self.store, **about, pages=("#/a", "#/b"))
        (described or "").encode()
        describe.model(self.ledger, "tiny").encode()

    def offered(self) -> None:
        rollout.due(self.ledger, step.upstream(self.store, SECOND, "promote"), SECOND)

    def answered(self) -> None:
        context: Any = SimpleNamespace(store=self.store, recipe=self.recipe)
        contest.Finetuned(context, self.recipe, self.trained).answers(self.asked, "of-rows")

    def readers(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """All that reads a store and writes nothing to it."""
        store, head = self.store, self.head
        for name in NAMES:
            yield f"fetched {name}", partial(self.fetched, SECOND, name)
        for run in (FIRST, SECOND):
            yield f"recipe of {run}", partial(snapshot.of_run, store, run)
            yield f"line of {run}", partial(summary.steps, store, run, None)
        yield "bound", partial(step.bound, store, head)
        yield "recipe of the model", partial(snapshot.of_model, store, head.model, head.run)
        yield "recipe of the champion", partial(snapshot.of_champion, store, head.model, head.run)
        yield "recipe by digest", partial(snapshot.by_digest, store, self.recipe_sha256)
        yield from self.of_the_ledger()
        yield "approval", partial(approval.of, store, model=head.model, evaluation=head.evaluation)
        yield "proof", partial(package.proven, store, self.trained)
        yield "summary", self.shown
        yield "MLflow's pages", self.described
        yield "waiting", partial(champions._registration, store, 3)
        yield "offered", self.offered
        none: Any = None
        of = partial(golden.of, store=store, recipe=self.recipe, entry=head, model=none, folder=self.folder / "fetched")
        yield "golden", of
        yield "answers", self.answered

    def of_the_ledger(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        head = self.head
        yield "entries", lambda: self.ledger.entries()
        yield "head", lambda: self.ledger.head()
        yield "newest", lambda: self.ledger.newest()
        yield "champion", lambda: self.ledger.champion(head.model)
        yield "opponent", lambda: self.ledger.opponent(head.model)
        yield "before", lambda: self.ledger.before(head.run)
        yield "version", lambda: self.ledger.version(1)
        yield "of", lambda: self.ledger.of(head.model)
        yield "latest", lambda: self.ledger.latest(5)
        yield "replaced", lambda: self.ledger.replaced()
        yield "previous", lambda: self.ledger.previous()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("around") / "world")


NAMES = [each.name for each in pipeline.STEPS]
WORDS = [
    "",
    "..",
    "../../out",
    "/tmp/out",
    "a/b",
    "a//b",
    "x" * 300,
    "\x1b[2J",
    "\0",
    "\ud800",
    "\u202e",
    "[/]",
    "{{ 1 }}",
    "é",
]
NUMBERS = [0, -1, 3, 2**63, 10**400, 0.5, 1e300, math.nan, math.inf, -math.inf]
values = st.recursive(
    st.none() | st.booleans() | st.sampled_from([*WORDS, *NUMBERS, SECOND, "promote", "withdraw", "a" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WORDS, "inputs", "name"]), inner, max_size=3)
    ),
    max_leaves=5,
)
BROKEN = [
    *(
        b"",
        b" ",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'"a"',
        b"NaN",
        b"\xff\xfe",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ),
    *(
        b"9" * 5000,
        b'{"format": 1}',
        b"[" * 150 + b"]" * 150,
        b"\x1f\x8b\x08\0",
        b"PAR1PAR1",
        b"!!python/object:os.system {}",
    ),
]


def damaged(content: bytes, name: str, data: st.DataObject) -> bytes:
    """The content of a file as an accident or somebody may leave it."""
    kind = data.draw(st.sampled_from(["cut", "broken", "bytes", *["changed"] * 7]))
    if kind == "broken":
        return data.draw(st.sampled_from(BROKEN))
    at = data.draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:at]
    if kind == "bytes":
        piece = data.draw(st.binary(min_size=1, max_size=4))
        return content[:at] + piece + content[at + len(piece) :]
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # it is no JSON, or damaged already
        return content + content
    for _ in range(data.draw(st.integers(1, 2))):
        document = changed(document, data)
    return json.dumps(document).encode()


def changed(document: Any, data: st.DataObject) -> Any:
    """The document with another value, or another key, at a place."""
    if not isinstance(document, dict | list) or not document or data.draw(st.integers(0, 5)) == 0:
        return data.draw(values)
    if isinstance(document, list):
        at = data.draw(st.integers(0, len(document) - 1))
        return [*document[:at], changed(document[at], data), *document[at + 1 :]]
    key = data.draw(st.sampled_from(sorted(document)))
    how = data.draw(st.sampled_from(["value", "value", "value", "lost", "renamed", "added"]))
    rest = {name: value for name, value in document.items() if name != key}
    if how == "lost":
        return rest
    if how == "renamed":
        return {**rest, data.draw(st.sampled_from(WORDS)): document[key]}
    if how == "added":
        return {
            **document,
            data.draw(st.sampled_from([*WORDS, f"{key}/a"])): data.draw(values | st.just(document[key])),
        }
    return {**document, key: changed(document[key], data)}


@SOME
@given(st.data())
def test_whatever_a_store_holds_reading_it_ends_in_a_value_or_names_the_object(
    world: World, data: st.DataObject
) -> None:
    before = list[tuple[Path, bytes]]()
    try:
        for _ in range(data.draw(st.integers(1, 4))):
            key = data.draw(st.sampled_from(data.draw(st.sampled_from(world.keys))))
            before += world.forge(key, damaged(world.path(key).read_bytes(), key, data))
        state = world.state()
        for name, read in world.readers():
            said = None
            try:
                read()
            except RegraftError as error:
                said = error
            if said is not None:
                assert said.where or said.next, name
                str(said).encode()
        assert world.state() == state, "reading writes nothing, neither outside nor inside"
    finally:
        for file, sound in reversed(before):
            file.write_bytes(sound)
        shutil.rmtree(world.folder / "fetched", ignore_errors=True)


@pytest.mark.parametrize("name", ["adapter/adapter_config.json/a", "x" * 300 + "/a", "/".join(["x" * 200] * 30)])
def test_a_name_that_no_disk_takes_is_refused_and_not_written(name: str, world: World) -> None:
    key = f"finetune/{world.head.model}/manifest.json"
    document = json.loads(world.path(key).read_bytes())
    document["outputs"][name] = next(iter(document["outputs"].values()))
    ((file, sound),) = world.forge(key, json.dumps(document).encode())
    try:
        with pytest.raises(BadInput) as refused:
            world.fetched(SECOND, "finetune")
        assert refused.value.where
    finally:
        file.write_bytes(sound)
        shutil.rmtree(world.folder / "fetched", ignore_errors=True)
