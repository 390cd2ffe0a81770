"""Clients of OpenAI's API are answered by what Triton serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from components.deploy import serve
from components.openai.said import Stops
from tests import talkers

HELLO: Any = [{"role": "user", "content": "hello you there"}]


@dataclass(frozen=True)
class World:
    repository: Path
    triton: str
    url: str
    """Where whoever is on this machine is answered."""
    guarded: str
    """Where keys are asked for."""

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.guarded if key else self.url}/v1", api_key=key or "none", max_retries=0)


@contextmanager
def api(repository: Path, triton: str, **variables: str) -> Iterator[str]:
    """URL of the service, in a process of its own."""
    port = serve.free_ports().http
    command = [sys.executable, "-m", "components.openai", f"--repository={repository}", f"--triton={triton}"]
    with subprocess.Popen([*command, f"--port={port}"], env={**os.environ, **variables}) as process:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None and not answers(url):
            time.sleep(0.05)
        try:
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return urllib3.request("GET", f"{url}/health", retries=False).status in (200, 503)
    except urllib3.exceptions.HTTPError:
        return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("openai")
    repository = folder / "models"
    talkers.put(repository, "chat", asks="messages", versions=(3, 4))
    talkers.put(repository, "brief", asks="text", versions=(1,))
    (repository / "encoder/1").mkdir(parents=True)
    (repository / "encoder/1/serving.json").write_text("{}")
    (repository / "encoder/config.pbtxt").write_text("version_policy { specific { versions: [ 1 ] } }")
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"of-briefs": ["brief"], "of-all": ["*"]}))
    with (
        serve.running(repository=repository, log=folder / "triton.log") as triton,
        api(repository, triton.address) as url,
        api(repository, triton.address, REGRAFT_OPENAI_KEYS=str(keys)) as guarded,
    ):
        yield World(repository, triton.address, url, guarded)


def post(url: str, document: Any, **headers: str) -> tuple[int, Any]:
    answer = urllib3.request(
        "POST", f"{url}/v1/chat/completions", json=document, headers={"Content-Type": "application/json", **headers}
    )
    return answer.status, answer.json()


def test_recipes_and_their_served_versions_are_the_models(world: World) -> None:
    client = world.client()
    assert [model.id for model in client.models.list()] == ["brief", "brief@1", "chat", "chat@4", "chat@3"]
    assert client.models.retrieve("chat@3").id == "chat@3"


def test_a_recipe_is_answered_by_its_champion_and_a_version_by_itself(world: World) -> None:
    for model, by in {"chat": "chat@4", "chat@4": "chat@4", "chat@3": "chat@3"}.items():
        said = world.client().chat.completions.create(model=model, messages=HELLO)
        assert said.model == by
        assert said.choices[0].message.content == "hello you there"
        assert said.choices[0].finish_reason == "stop"
        assert said.usage is not None
        assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (3, 3, 6)


def test_an_answer_comes_piece_by_piece_from_one_version(world: World) -> None:
    stream = world.client().chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *pieces, end, usage = stream
    assert [piece.choices[0].delta.content for piece in pieces] == ["", "hello", " you", " there"]
    assert {piece.model for piece in (*pieces, end, usage)} == {"chat@4"}
    assert end.choices[0].finish_reason == "stop"
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 3


def test_a_document_is_answered_either_way(world: World) -> None:
    client = world.client()
    assert client.completions.create(model="brief", prompt="a b c").choices[0].text == "a b c"
    assert (
        client.chat.completions.create(model="brief", messages=HELLO).choices[0].message.content == HELLO[0]["content"]
    )
    streamed = client.completions.create(model="brief", prompt=["a b c"], stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == "a b c"


def test_langchain_is_answered(world: World) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{world.url}/v1", api_key="none", model="chat")  # type: ignore[arg-type]

    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    assert model.invoke("hello you").content == "hello you"
    assert model.bind_tools([add]).invoke("hello you").content == "hello you"
    assert "".join(str(piece.content) for piece in model.stream("hello you")) == "hello you"


def test_an_answer_ends_where_it_was_told_to(world: World) -> None:
    create = world.client().chat.completions.create
    cut = create(model="chat", messages=HELLO, max_completion_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("hello you", "length")
    stopped = create(model="chat", messages=HELLO, stop=[" there", "o y"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("hell", "stop")
    pieces = list(create(model="chat", messages=HELLO, stop="u th", stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "hello yo"
    assert pieces[-1].choices[0].finish_reason == "stop"


@given(st.lists(st.text("ab", max_size=3)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_a_stream_ends_before_the_first_word_that_stops_it(pieces: list[str], words: list[str]) -> None:
    whole, stops = "".join(pieces), Stops(words)
    said = "".join([*(stops.take(piece) for piece in pieces), stops.take("", last=True)])
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(word) for word in words)]
    if not ends:
        assert (said, stops.over) == (whole, False)
    else:
        assert stops.over
        assert whole.startswith(said)
        assert not any(word in said for word in words)
        assert any(whole[len(said) :].startswith(word) for word in words)


def test_a_greedy_answer_is_the_same_each_time(world: World) -> None:
    said = world.client().chat.completions.create(model="chat", messages=HELLO, n=2)
    assert [choice.message.content for choice in said.choices] == ["hello you there"] * 2


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"temperature": 0.7}, "temperature: answers are greedy"),
        ({"top_p": 0.9}, "top_p: answers are greedy"),
        ({"logit_bias": {"1": 2}}, "logit_bias: is not taken here"),
        ({"logprobs": True}, "logprobs: Input should be False"),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of text are taken"),
        ({"messages": [{"role": "user", "content": "bad word"}]}, "what you ask is bad"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(world: World, asked: dict[str, Any], says: str) -> None:
    for stream in (False, True):
        status, answer = post(world.url, {"model": "chat", "messages": HELLO, "stream": stream, **asked})
        assert status == 400
        assert says in answer["error"]["message"]
        assert answer["error"]["type"] == "invalid_request_error"


def test_what_is_no_json_is_refused(world: World) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b'{"model": "\xed\xa0\x80"}'):
        answer = urllib3.request(
            "POST", f"{world.url}/v1/completions", body=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status == 400
        assert answer.json()["error"]["message"]


def test_a_conversation_model_is_asked_for_no_completion_and_a_document_is_one_message(world: World) -> None:
    with pytest.raises(openai.BadRequestError, match="ask /v1/chat/completions"):
        world.client().completions.create(model="chat", prompt="a")
    with pytest.raises(openai.BadRequestError, match="takes one message"):
        world.client().chat.completions.create(model="brief", messages=[*HELLO, *HELLO])


def test_a_key_sees_its_recipes_and_hears_of_no_other(world: World) -> None:
    mine = world.client("of-briefs")
    assert [model.id for model in mine.models.list()] == ["brief", "brief@1"]
    assert mine.completions.create(model="brief", prompt="a").choices[0].text == "a"
    told = set()
    for model in ("chat", "chat@4", "brief@2", "nothing", "../models/chat", "encoder"):
        with pytest.raises(openai.NotFoundError) as refused:
            mine.chat.completions.create(model=model, messages=HELLO)
        told.add(str(refused.value).replace(model, "MODEL"))
    assert len(told) == 1, "what is forbidden is not told from what there is not"
    assert len(list(world.client("of-all").models.list())) == 5
    for wrong in ("of-brief", "of-briefs2", "x"):
        with pytest.raises(openai.AuthenticationError):
            world.client(wrong).models.list()


def test_without_keys_this_machine_alone_is_answered(world: World) -> None:
    answer = urllib3.request("GET", f"{world.url}/v1/models", headers={"Host": "attacker.example"})
    assert answer.status == 403, "the name of another place led a browser here"
    command = [sys.executable, "-m", "components.openai", f"--repository={world.repository}"]
    ended = subprocess.run([*command, "--address=0.0.0.0"], capture_output=True, text=True)
    assert ended.returncode == 20
    assert "REGRAFT_OPENAI_KEYS: whoever reaches 0.0.0.0 could ask all models" in ended.stderr


def test_where_it_cannot_listen_it_says_so(world: World) -> None:
    taken = world.triton.rpartition(":")[2]
    command = [sys.executable, "-m", "components.openai", f"--repository={world.repository}", f"--port={taken}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 20
    assert f"openai: 127.0.0.1:{taken}: cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"a b": ["*"]}', '{"a": "*"}', '{"": ["*"]}'])
def test_keys_that_cannot_be_read_let_nobody_in(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "keys.json").write_text(content)
    command = [sys.executable, "-m", "components.openai", f"--repository={tmp_path}"]
    variables = {**os.environ, "REGRAFT_OPENAI_KEYS": str(tmp_path / "keys.json")}
    ended = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert ended.returncode == 20
    assert "REGRAFT_OPENAI_KEYS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_page_elsewhere_sends_no_form(world: World) -> None:
    status, _ = post(world.url, {"model": "chat", "messages": HELLO}, **{"Content-Type": "text/plain"})
    assert status == 415


def test_nobody_computes_for_a_client_that_has_gone(world: World) -> None:
    words = "slow " * 100
    stream = world.client().chat.completions.create(
        model="chat", messages=[{"role": "user", "content": words}], stream=True
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 60
    while talkers.hung_up(world.repository, "chat") is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_answer_that_breaks_off_is_no_answer(world: World) -> None:
    asked: Any = [{"role": "user", "content": "broken words"}]
    with pytest.raises(openai.InternalServerError, match="broke off"):
        world.client().chat.completions.create(model="chat", messages=asked)
    with pytest.raises(openai.APIError, match="broke off"):
        list(world.client().chat.completions.create(model="chat", messages=asked, stream=True))


def test_without_triton_a_client_is_told_to_ask_again(world: World) -> None:
    with api(world.repository, f"127.0.0.1:{serve.free_ports().http}") as url:
        answer = urllib3.request(
            "POST", f"{url}/v1/chat/completions", json={"model": "chat", "messages": HELLO}, retries=False
        )
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["error"]["code"] == "unavailable"
        assert urllib3.request("GET", f"{url}/health", retries=False).status == 503


def test_the_page_runs_in_a_browser_under_its_policy(world: World, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --virtual-time-budget=5000 --dump-dom"
    command = [chromium, *flags.split(), f"--user-data-dir={tmp_path}", world.url]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<option>chat@4</option>" in dom
