"""Rollouts on a real tritonserver under constant requests, and candidates that must never get one."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from components.deploy import deployment, export, follow, replica, rollout, serve
from regraft.errors import Temporary
from regraft.ledger import Entry, Ledger
from regraft.parts import Recipe
from regraft.processor import computes_in_bf16, flags
from regraft.store import Store
from tests import champions

pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class Stage:
    """A store with a ledger, a model repository and two replicas that read it."""

    recipe: Recipe
    store: Store
    scratch: Path
    replicas: tuple[str, ...]
    number: int = 0

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def promote(self, version: int) -> Entry:
        return champions.promote(self.store, self.recipe, self.scratch, version)

    def deploy(self) -> deployment.Deployed:
        self.number += 1
        scratch = self.scratch / f"deploy-{self.number}"
        scratch.mkdir()
        entry = rollout.champion(self.ledger)
        return deployment.deploy(
            recipe=self.recipe,
            ledger=self.ledger,
            entry=entry,
            scratch=scratch,
            out=None,
            any_settings=False,
            progress=lambda done, text: None,
        )

    def serving(self) -> list[set[int]]:
        return [replica.ready(address, "tiny") for address in self.replicas]


@contextmanager
def staged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Two replicas on what `folder` holds: recipe.yaml, store/ and models/."""
    recipe = champions.load_recipe(folder / "recipe.yaml")
    repository = folder / "models"
    with (
        serve.running(repository=repository, log=folder / "one.log") as one,
        serve.running(repository=repository, log=folder / "two.log") as two,
    ):
        monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", str(repository))
        monkeypatch.setenv("REGRAFT_TRITON_URLS", f"{one.address},{two.address}")
        yield Stage(
            recipe=recipe,
            store=Store(str(folder / "store"), recipe.name),
            scratch=folder,
            replicas=(one.address, two.address),
        )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which version 1 has been rolled out; each test goes on from a copy."""
    folder = tmp_path_factory.mktemp("first")
    champions.recipe_file(folder, champions.base(tmp_path_factory.mktemp("base")))
    (folder / "models").mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch, staged(folder, monkeypatch) as stage:
        stage.promote(1)
        assert stage.deploy().refused is None
    return folder


@pytest.fixture
def stage(tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("store", "models"):
        shutil.copytree(first / name, tmp_path / name)
    shutil.copy(first / "recipe.yaml", tmp_path)
    with staged(tmp_path, monkeypatch) as stage:
        assert stage.serving() == [{1}, {1}], "a replica that starts anew serves the champion by itself"
        yield stage


@dataclass(kw_only=True)
class Answers:
    versions: list[int] = field(default_factory=list)
    lost: list[BaseException] = field(default_factory=list)


@contextmanager
def constant_requests(stage: Stage) -> Iterator[Answers]:
    """Two clients a replica that ask without a pause, naming no version, before, during and after the block."""
    answers, stop = Answers(), threading.Event()

    def ask(address: str) -> None:
        row = pa.table({"text": champions.TEXTS[:1]})
        with replica.calling(address, stage.recipe) as caller:
            while not stop.is_set():
                try:
                    answers.versions.append(caller(row)[1])
                except BaseException as error:
                    answers.lost.append(error)
                time.sleep(0.002)

    threads = [threading.Thread(target=ask, args=(address,)) for address in stage.replicas * 2]
    for thread in threads:
        thread.start()
    try:
        _more(answers)
        yield answers
        _more(answers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _more(answers: Answers, count: int = 200) -> None:
    """Waits until so many more answers have come, or one was lost."""
    until = len(answers.versions) + count
    while len(answers.versions) < until and not answers.lost:
        time.sleep(0.01)


def test_a_rollout_and_a_rollback_lose_no_request(stage: Stage) -> None:
    stage.promote(2)
    with constant_requests(stage) as answers:
        assert stage.deploy().refused is None
        _more(answers)
        assert stage.serving() == [{1, 2}, {1, 2}], "the version before stays warm"
        assert answers.versions[-1] == 2
        before = stage.ledger.head()
        first = stage.ledger.entries()[0]
        stage.ledger.append(
            before, kind="rollback", version=1, model=first.model, run=first.run, evaluation="e" * 64, reason="test"
        )
        assert follow.follow(stage.recipe, stage.store, repair=True)["repaired"]
    assert answers.lost == []
    assert set(answers.versions) == {1, 2}
    assert answers.versions[-1] == 1
    assert follow.follow(stage.recipe, stage.store, repair=False)["differences"] == []


Spoil = Callable[[str], str]


def _raises_at_load(program: str) -> str:
    return program + "\nraise RuntimeError('broken on purpose')\n"


def _swaps_labels(program: str) -> str:
    return program.replace("self.run(ids, mask)\n", "self.run(ids, mask)[:, ::-1].copy()\n")


def _sleeps(program: str) -> str:
    texts = "        texts: list[str] = []\n"
    return program.replace(texts, f"        import time; time.sleep(2.1)\n{texts}")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_raises_at_load, "broken on purpose"), (_swaps_labels, "answers wrongly"), (_sleeps, "is too slow")],
)
def test_a_bad_candidate_never_gets_a_request_and_the_ledger_says_why(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, reason: str
) -> None:
    _spoil(monkeypatch, spoil)
    stage.promote(2)
    with constant_requests(stage) as answers:
        refused = stage.deploy().refused
    assert reason in str(refused)
    assert answers.lost == []
    assert set(answers.versions) == {1}
    head = stage.ledger.head()
    assert head is not None
    assert (head.kind, head.version, head.sequence) == ("rollback", 1, 3)
    assert reason in head.reason
    assert stage.serving() == [{1}, {1}]
    assert not (stage.scratch / "models" / "tiny" / "2").exists()


def _spoil(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    build = export.build

    def spoiled(*arguments: object, **options: object) -> Path:
        folder = build(*arguments, **options)  # type: ignore[arg-type]
        program = (folder / "model.py").read_text()
        assert spoil(program) != program
        (folder / "model.py").write_text(spoil(program))
        return folder

    monkeypatch.setattr(export, "build", spoiled)


def test_a_candidate_that_only_the_second_replica_cannot_load_is_taken_back_everywhere(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = replica.load

    def refusing(address: str, name: str, versions: list[int]) -> None:
        load(address, name, versions)
        if address == stage.replicas[1] and 2 in versions:
            raise replica.NotServed("out of GPU memory", where=address)

    monkeypatch.setattr(replica, "load", refusing)
    stage.promote(2)
    with constant_requests(stage) as answers:
        refused = stage.deploy().refused
    assert "out of GPU memory" in str(refused)
    assert answers.lost == []
    assert answers.versions[-1] == 1
    assert stage.serving() == [{1}, {1}]
    assert [e.version for e in stage.ledger.entries()] == [1, 2, 1]


@pytest.mark.skipif("avx512f" not in flags(), reason="without AVX-512 OpenVINO computes in fp32 whatever it is told")
def test_a_faster_way_that_does_not_hold_parity_gives_way_to_the_next_with_a_warning(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.recipe = _serving(stage.recipe, precision="bf16")
    stage.promote(2)
    done = stage.deploy()
    assert (done.refused, done.measured["precision"]) == (None, "fp32")
    assert done.measured["batch_effect"] < 1e-4
    (warning,) = done.measured["warnings"]
    assert warning.startswith("not served in bf16, which is faster than fp32: it ")
    assert warning in capsys.readouterr().err
    assert stage.serving() == [{1, 2}, {1, 2}]


@pytest.mark.skipif(not computes_in_bf16(), reason="this processor computes in no other way than a lesser one would")
@pytest.mark.parametrize("joins_later", [False, True], ids=["there from the start", "joins what serves"])
def test_a_replica_on_a_lesser_processor_is_named_and_all_are_served_a_way_that_each_can(
    joins_later: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions.recipe_file(tmp_path, champions.base(tmp_path / "base"), "{parity: 0.5, latency_budget_ms: 5000}")
    (tmp_path / "models").mkdir()
    with ExitStack() as stack:
        with monkeypatch.context() as lesser:
            lesser.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
            server = stack.enter_context(serve.running(repository=tmp_path / "models", log=tmp_path / "lesser.log"))
        stage = stack.enter_context(staged(tmp_path, monkeypatch))
        addresses = (stage.replicas[0], server.address)
        stage.promote(1)
        if joins_later:
            monkeypatch.setenv("REGRAFT_TRITON_URLS", stage.replicas[0])
            assert stage.deploy().measured["precision"] == "bf16"
        monkeypatch.setenv("REGRAFT_TRITON_URLS", ",".join(addresses))
        done = stage.deploy()
        assert (done.refused, done.measured["precision"]) == (None, "fp32")
        assert f"(on {server.address})" in done.measured["warnings"][0]
        assert [replica.ready(address, "tiny") for address in addresses] == [{1}, {1}]


def _serving(recipe: Recipe, **changed: object) -> Recipe:
    return recipe.model_copy(update={"serving": recipe.serving.model_copy(update=changed)})


def test_a_champion_that_changes_during_a_rollout_is_what_triton_ends_up_with(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.promote(2)
    publish = rollout.Repository.publish

    def overtaken(self: rollout.Repository, built: Path, version: int) -> Path | None:
        if version == 2:
            stage.promote(3)
        return publish(self, built, version)

    monkeypatch.setattr(rollout.Repository, "publish", overtaken)
    with constant_requests(stage) as answers:
        with pytest.raises(Temporary, match="changed from version 2 to 3"):
            stage.deploy()
        assert stage.serving() == [{1}, {1}]
        assert stage.deploy().refused is None
    assert answers.lost == []
    assert answers.versions[-1] == 3
    assert follow.follow(stage.recipe, stage.store, repair=False)["differences"] == []


def test_a_replica_that_is_gone_stops_the_rollout_before_anything_changes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = serve.free_ports().http
    monkeypatch.setenv("REGRAFT_TRITON_URLS", f"{stage.replicas[0]},127.0.0.1:{nobody}")
    stage.promote(2)
    with pytest.raises(Temporary, match="cannot be reached"):
        stage.deploy()
    assert stage.serving() == [{1}, {1}]
    assert [e.version for e in stage.ledger.entries()] == [1, 2]


def test_what_a_killed_deploy_left_behind_is_cleaned_and_the_rollout_finished(stage: Stage) -> None:
    models = stage.scratch / "models" / "tiny"
    (models / ".tmp-half" / "deep").mkdir(parents=True)
    (models / ".tmp-config").write_text("half")
    stage.promote(2)
    assert stage.deploy().refused is None
    assert sorted(p.name for p in models.iterdir()) == ["1", "2", "config.pbtxt"]


def test_one_unreadable_text_hurts_no_other_request(stage: Stage) -> None:
    import numpy as np
    import tritonclient.http
    from tritonclient.utils import InferenceServerException

    outcomes: dict[str, object] = {}

    def ask(name: str, value: bytes) -> None:
        tensor = tritonclient.http.InferInput("text", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
        with tritonclient.http.InferenceServerClient(stage.replicas[0]) as client:
            try:
                outcomes[name] = client.infer("tiny", [tensor]).as_numpy("label").item().decode()
            except InferenceServerException as error:
                outcomes[name] = error.message()

    texts = {"good": b"a good film", "empty": b"", "long": b"good " * 400_000, "broken": b"good \xff\xfe"}
    threads = [threading.Thread(target=ask, args=item) for item in [*texts.items()] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes["broken"] == "text is not valid UTF-8: invalid start byte at byte 5"
    assert {outcomes[name] for name in ("good", "empty", "long")} <= {"negative", "positive"}
