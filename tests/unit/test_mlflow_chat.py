"""An assistant that MLflow keeps is asked and answers in OpenAI's form: loaded, and behind MLflow's scoring server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regraft import causal, recipe
from regraft.causal import assistant
from tests import llamas
from tests.worlds import chat as world

ASKED = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a great film"}]}
CALLED = {
    "messages": [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": '{"id": 1}'}}]},
        {"role": "tool", "content": "Lisbon"},
    ]
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> causal.Causal:

    base = llamas.base(tmp_path_factory.mktemp("llama"))
    text = world.RECIPE.format(data="nowhere", base=base, epochs=1, more="")
    declared: Any = recipe.parse(text)
    made, tokenizer = causal.for_training(declared, tmp_path_factory.mktemp("model"))
    llamas.teach(made, std=0.2)
    return causal.Causal(made.eval(), tokenizer, 64, 12)


@pytest.fixture(scope="module")
def kept(model: causal.Causal, mlflow_server: str) -> Iterator[str]:
    """Where MLflow keeps it."""
    import mlflow
    import pyarrow as pa

    base = model.model.get_base_model().config.name_or_path
    declared: Any = recipe.parse(world.RECIPE.format(data="nowhere", base=base, epochs=1, more=""))
    turns = [[*each["messages"]] for each in (ASKED, CALLED)]
    answer = json.dumps({"role": "assistant", "content": "Lisbon"})
    rows = pa.table({"text": [json.dumps(each) for each in turns], "answer": [answer] * len(turns)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        mlflow.set_tracking_uri(mlflow_server)
        log, proof = assistant.logged(declared, model, rows)
        with mlflow.start_run():
            uri = log(name="tiny", pip_requirements=["mlflow"], tags={}).model_uri
        assert proof(uri) is None
        yield str(uri)


def test_a_conversation_is_answered_in_openais_form(model: causal.Causal, kept: str, mlflow_server: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(mlflow_server)
    loaded = mlflow.pyfunc.load_model(kept)
    (said,) = assistant.said(model, [ASKED])
    found = loaded.predict(ASKED)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": said}
    assert (found["object"], found["model"]) == ("chat.completion", "tiny")
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    both = loaded.predict([ASKED, {"messages": ASKED["messages"][1:]}])
    again = assistant.said(model, [ASKED, {"messages": ASKED["messages"][1:]}])
    assert [each["choices"][0]["message"]["content"] for each in both] == again
    short = loaded.predict({**ASKED, "max_tokens": 2})
    assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (2, "length")


def test_its_signature_and_task_say_so(kept: str, mlflow_server: str) -> None:
    import mlflow
    from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

    mlflow.set_tracking_uri(mlflow_server)
    info = mlflow.models.get_model_info(kept)
    assert (info.signature.inputs, info.signature.outputs) == (CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA)
    assert info.metadata == {"task": "llm/v1/chat"}


def test_mlflow_serves_it(model: causal.Causal, kept: str, mlflow_server: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", kept, f"--port={port}", "--env-manager=local"]
    with (tmp_path / "log").open("w") as log:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where uvicorn is
        told = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_server, "PATH": path}
        server = subprocess.Popen(command, env=told, stdout=log, stderr=log, start_new_session=True)
    try:
        found = asked(f"http://127.0.0.1:{port}/invocations", ASKED, server, tmp_path / "log")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()
    assert found["choices"][0]["message"]["content"] == assistant.said(model, [ASKED])[0]


def asked(url: str, request: dict[str, Any], server: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """The answer of a server that may not have begun yet."""
    made = urllib.request.Request(url, json.dumps(request).encode(), {"Content-Type": "application/json"})
    deadline = time.monotonic() + 120
    while True:
        try:
            return dict(json.load(urllib.request.urlopen(made, timeout=60)))
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


def test_what_a_request_says_of_length_can_only_shorten(model: causal.Causal) -> None:
    plain = assistant.completions(model, [ASKED], name="tiny")[0]
    long = assistant.completions(replace(model), [{**ASKED, "max_tokens": 10_000}], name="tiny")[0]
    assert plain["choices"] == long["choices"]
