"""What a served language model streams: what it says offline, whole, from one version, to each of many clients."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from components.deploy import deployment, export, replica, rollout, serve
from regraft import recipe as recipes
from regraft import tasks
from regraft.causal import Causal, answering, assistant
from regraft.ledger import Entry, Ledger
from regraft.parts import Recipe
from regraft.step import result_of
from regraft.store import Store
from tests import champions, llamas
from tests.contract.test_openai import api
from tests.worlds import chat

pytestmark = pytest.mark.slow

TALKS = [champions.conversation(text) for text in champions.TEXTS[:8]]
LONG = {"max_length: 96": "max_length: 400", "max_tokens: 12": "max_tokens: 300"}


def declared(folder: Path, **changes: str) -> Recipe:
    """A recipe of an assistant that answers in 32 tokens."""
    text = chat.RECIPE.format(data="nowhere", base=llamas.base(folder / "base"), epochs=1, more="serving: {threads: 1}")
    for before, after in (changes or {"max_tokens: 12": "max_tokens: 32"}).items():
        assert before in text
        text = text.replace(before, after)
    return recipes.parse(text)


def loaded(store: Store, recipe: Recipe, entry: Entry, folder: Path) -> Causal:
    """A champion, as its task loads it."""
    files = store.fetch(f"finetune/{entry.model}", result_of(store, "finetune", entry.model), folder / "model")
    model: Causal = tasks.of(recipe.task).load(recipe, files, folder / "scratch")
    return model


def offline(model: Causal) -> list[str]:
    """What it answers to TALKS."""
    return [answer.text for answer in answering.generated(model, assistant.asks(model, TALKS))]


def streamed(address: str, talk: Sequence[Any], **more: Any) -> list[dict[str, Any]]:
    """The pieces of an answer."""
    body = json.dumps({"messages": json.dumps(talk), "stream": True, **more})
    with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
        connection.request("POST", "/v2/models/tiny/generate_stream", body)
        lines = connection.getresponse().read().splitlines()
    return [json.loads(line.removeprefix(b"data:")) for line in lines if line]


def whole(pieces: Sequence[dict[str, Any]]) -> str:
    """The answer that pieces make. Fails where its end is missing."""
    assert pieces[-1].get("finish_reason") in ("stop", "length"), pieces
    return "".join(piece["text"] for piece in pieces)


@dataclass
class Served:
    """A server of version 1, and what that says offline."""

    repository: Path
    address: str
    metrics: str
    offline: list[str]

    def aborted(self) -> int:
        """Requests whose clients have gone, by Triton's metrics."""
        with urllib.request.urlopen(self.metrics) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = [line for line in lines if line.startswith("regraft_aborted_requests{")]
        return int(float(line.rpartition(" ")[2]))


@contextmanager
def serving(folder: Path, **changes: str) -> Iterator[Served]:
    recipe = declared(folder, **changes)
    store = Store(str(folder / "store"), recipe.name)
    entry = champions.promote(store, recipe, folder, 1)
    model = loaded(store, recipe, entry, folder)
    answers, place = offline(model), folder / "models/tiny"
    export.build(recipe, entry, model, place / "1", precision="fp32", settings="test")
    (place / "config.pbtxt").write_text(export.config(recipe, [1]))
    with serve.running(repository=folder / "models", log=folder / "triton.log") as server:
        assert replica.index(server.address, "tiny") == {1: ("READY", "")}
        yield Served(folder / "models", server.address, f"http://127.0.0.1:{server.ports.metrics}/metrics", answers)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as made:
        yield made


def test_the_pieces_of_a_stream_are_the_offline_answer(served: Served) -> None:
    assert len(set(served.offline)) > 4, "all answers are alike, so this test shows nothing"
    for talk, right in zip(TALKS, served.offline, strict=True):
        pieces = streamed(served.address, talk)
        assert whole(pieces) == right
        assert len(pieces) > 8, "it comes piece by piece"


def test_eight_clients_at_once_get_the_answers_that_each_gets_alone(served: Served) -> None:
    said: dict[int, list[str]] = {}

    def ask(client: int) -> None:
        order = [*range(client, 8), *range(client)]
        said[client] = [whole(streamed(served.address, TALKS[number])) for number in order]

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in range(8):
        assert said[client] == [*served.offline[client:], *served.offline[:client]]


def test_a_client_of_openai_hears_the_offline_answer_piece_by_piece(served: Served) -> None:
    with api(served.repository, served.address) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        for talk, right in zip(TALKS, served.offline, strict=True):
            stream = client.chat.completions.create(model="tiny", messages=cast("Any", talk), stream=True)
            *pieces, end = stream
            assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == right
            assert len(pieces) > 8
            assert (end.model, end.choices[0].finish_reason in ("stop", "length")) == ("tiny@1", True)


def test_an_answer_may_be_shorter_than_the_recipe_allows(served: Served) -> None:
    (only,) = streamed(served.address, TALKS[0], stream=False, max_tokens=3)
    assert (only["completion_tokens"], only["finish_reason"]) == (3, "length")
    assert served.offline[0].startswith(only["text"].rstrip("\ufffd"))


USER = {"role": "user", "content": "good"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"messages": "good"}, "damaged messages: messages has to be a list in JSON of turns"),
    "no turns": ({"messages": "[]"}, "no messages: "),
    "no words": ({"messages": json.dumps([{"role": "user", "content": " "}])}, "empty turn: "),
    "a wrong role": ({"messages": json.dumps([{"role": "boss", "content": "x"}])}, "unknown role: "),
    "after the answer": (
        {"messages": json.dumps([USER, {"role": "assistant", "content": "x"}])},
        "turns out of order: ",
    ),
    "deep": ({"messages": "[" * 100_000}, "characters, and at most|damaged messages"),
    "large": (
        {"messages": json.dumps([{**USER, "content": "x " * 300_000}])},
        "characters, and at most 24576 are read",
    ),
    "no tools": ({"messages": json.dumps([USER]), "tools": "[[]]"}, "damaged tools: "),
    "tools unshown": (
        {"messages": json.dumps([USER]), "tools": json.dumps([{"function": {"name": "find"}}])},
        "the request cannot be answered: the chat template shows no tools",
    ),
    "too long an answer": (
        {"messages": json.dumps([USER]), "max_tokens": 33},
        "max_tokens is 33, and has to be from 1",
    ),
    "no answer": ({"messages": json.dumps([USER]), "max_tokens": 0}, "max_tokens is 0, and has to be from 1 to 32"),
}


@pytest.mark.parametrize("body", BAD)
def test_a_bad_request_gets_its_sentence_and_the_next_one_is_answered(body: str, served: Served) -> None:
    import re

    request, why = BAD[body]
    for way in ("generate", "generate_stream"):
        with closing(http.client.HTTPConnection(served.address, timeout=120)) as connection:
            connection.request("POST", f"/v2/models/tiny/{way}", json.dumps(request))
            answer = connection.getresponse()
            assert answer.status == 400
            said = json.loads(answer.read().removeprefix(b"data:"))["error"]
        assert re.search(why, said), said
        assert "\n" not in said
    assert whole(streamed(served.address, TALKS[1])) == served.offline[1]


def test_the_requests_of_clients_that_have_gone_are_computed_no_further(tmp_path: Path) -> None:
    with serving(tmp_path, **LONG, **{"threads: 1": "threads: 1, max_batch_size: 1"}) as served:
        connections = [http.client.HTTPConnection(served.address) for _ in range(60)]
        for number, connection in enumerate(connections):
            body = {"messages": json.dumps(champions.conversation(f"good {number}")), "stream": True}
            connection.request("POST", "/v2/models/tiny/generate_stream", json.dumps(body))
        first = connections[0].getresponse()
        assert json.loads(first.readline().removeprefix(b"data:"))["text"]
        first.close()
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 60
        while served.aborted() < 30 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert served.aborted() >= 30, "one is computed at a time, and few were before they were looked after"
        assert whole(streamed(served.address, TALKS[0])) == served.offline[0]


@dataclass
class Clients:
    """Threads that stream one answer after the other until they are told to stop."""

    address: str
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def stream(self, client: int) -> None:
        number = client
        while not self.stop.is_set():
            number = (number + 1) % len(TALKS)
            try:
                self.answers.append((number, streamed(self.address, TALKS[number])))
            except Exception as error:
                self.broken.append(repr(error))

    def versions(self) -> set[int]:
        return {int(piece["model_version"]) for _, pieces in [*self.answers] for piece in pieces if "text" in piece}

    def wait_for(self, version: int) -> None:
        deadline = time.monotonic() + 120
        while version not in self.versions() and time.monotonic() < deadline:
            time.sleep(0.05)

    @contextmanager
    def at_work(self, count: int = 4) -> Iterator[None]:
        threads = [threading.Thread(target=self.stream, args=(client,)) for client in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.timeout(600)
def test_rollouts_and_a_rollback_under_streams_break_none_mix_none_and_lose_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = declared(tmp_path)
    store, said = Store(str(tmp_path / "store"), recipe.name), dict[int, list[str]]()
    (tmp_path / "models").mkdir()
    ledger = Ledger(store)

    def deploy() -> deployment.Deployed:
        (scratch := tmp_path / f"deploy-{time.monotonic_ns()}").mkdir()
        entry = rollout.champion(ledger)
        settings = {"scratch": scratch, "out": None, "any_settings": True, "progress": lambda done, text: None}
        done = deployment.deploy(recipe=recipe, ledger=ledger, entry=entry, **settings)  # type: ignore[arg-type]
        assert done.refused is None
        return done

    def promote(version: int) -> Entry:
        entry = champions.promote(store, recipe, tmp_path, version)
        said[version] = offline(loaded(store, recipe, entry, tmp_path / f"offline-{version}"))
        return entry

    with serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server:
        monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", str(tmp_path / "models"))
        monkeypatch.setenv("REGRAFT_TRITON_URLS", server.address)
        monkeypatch.setenv("REGRAFT_TRITONSERVER", str(serve.home()))
        promote(1)
        measured = deploy().measured
        assert (measured["parity"], measured["batch_effect"], measured["precision"]) == (0, 0, "fp32")
        clients = Clients(server.address)
        with clients.at_work():
            clients.wait_for(1)
            second = promote(2)
            deploy()
            assert replica.ready(server.address, "tiny") == {1, 2}, "the one before stays warm"
            clients.wait_for(2)
            third = promote(3)
            deploy()
            assert replica.ready(server.address, "tiny") == {2, 3}, "and the one before that is retired"
            clients.wait_for(3)
            ledger.again(third, second, kind="rollback", reason="by hand")
            deploy()
            assert replica.ready(server.address, "tiny") == {2}
            last = len(clients.answers)
            while len(clients.answers) < last + 20 and not clients.broken:
                time.sleep(0.05)
    assert not clients.broken
    assert clients.versions() == {1, 2, 3}
    for number, pieces in clients.answers:
        (version,) = {int(piece["model_version"]) for piece in pieces}
        assert whole(pieces) == said[version][number], "each answer is whole, and of one version"
    assert {int(pieces[0]["model_version"]) for _, pieces in clients.answers[-4:]} == {2}
