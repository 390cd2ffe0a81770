"""The servers that the serving benchmark compares, each with the same trained model and ready to answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import urllib3

from benchmarks import _laptop
from components.deploy import serve
from regraft import tasks
from regraft.encoders import Encoder

FP32 = "regraft, fp32"
PIPELINE = "FastAPI + pipeline"
FASTAPI = """\
from fastapi import FastAPI
from transformers import pipeline
app = FastAPI()
classify = pipeline("text-classification", model={model!r}, top_k=None)
@app.post("/predict")
def predict(request: dict):
    return classify([request["text"]], truncation=True, max_length={max_length})[0]
@app.get("/ping")
def ping():
    return {{}}
"""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server, and how it is spoken to.

    `body` makes a request of texts, `labels` reads an answer: a label and its probability for each text. One that
    `batches` takes several texts in a request.
    """

    name: str
    url: str
    pid: int
    body: Callable[[list[str]], dict[str, Any]]
    labels: Callable[[Any], list[tuple[str, float]]]
    batches: bool

    def ask(self, texts: list[str]) -> list[tuple[str, float]]:
        answer = urllib3.request("POST", self.url, json=self.body(texts), retries=False)
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {answer.status} {answer.data[:300]!r}")
        return self.labels(answer.json())

    def cpu_seconds(self) -> float:
        """CPU seconds of the server and of all the processes it has started, until now."""
        server = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def champion(laptop: _laptop.Laptop, scratch: Path) -> Encoder:
    """The model that a laptop's ledger names, in torch."""
    store, recipe = laptop.store, laptop.recipe
    identity = store.read_json(f"runs/{_laptop.RUN}/finetune.json")["identity"]
    manifest = store.manifest(f"finetune/{identity}")
    assert manifest is not None
    files = store.fetch(f"finetune/{identity}", manifest, scratch / "finetune", only=("adapter", "tokenizer"))
    loaded: Encoder = tasks.of(recipe.task).load(recipe, files, scratch / "base")
    names = list(recipe.data.labels)
    loaded.model.config.id2label = dict(enumerate(names))
    loaded.model.config.label2id = {name: position for position, name in enumerate(names)}
    return loaded


def of_regraft(laptop: _laptop.Laptop) -> Contender:
    """What a laptop's Triton serves, once the recipe has been run; named after how it is served."""
    laptop.run()
    recipe, server = laptop.recipe, laptop.stack.triton
    assert server is not None
    models = laptop.folder / ".regraft/models" / recipe.name
    serving = json.loads(max(models.glob("*/serving.json"), key=lambda file: int(file.parent.name)).read_bytes())

    def body(texts: list[str]) -> dict[str, Any]:
        return {"inputs": [{"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}]}

    def labels(answer: Any) -> list[tuple[str, float]]:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        width = len(recipe.data.labels)
        rows = [
            outputs["probabilities"][start : start + width] for start in range(0, len(outputs["label"]) * width, width)
        ]
        return [(label, max(row)) for label, row in zip(outputs["label"], rows, strict=True)]

    return Contender(
        name=f"regraft, {serving['precision']} ({serving['backend']})",
        url=f"{server.url}/v2/models/{recipe.name}/infer",
        pid=server.pid,
        body=body,
        labels=labels,
        batches=True,
    )


@contextmanager
def fastapi(folder: Path, model: Path, max_length: int) -> Iterator[Contender]:
    """What a team writes first: FastAPI and transformers.pipeline."""
    port = serve.free_ports().http
    (folder / "app.py").write_text(FASTAPI.format(model=str(model), max_length=max_length))
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    with _process(command, f"http://127.0.0.1:{port}/ping", folder, "fastapi.log") as pid:
        yield Contender(
            name=PIPELINE,
            url=f"http://127.0.0.1:{port}/predict",
            pid=pid,
            body=lambda texts: {"text": texts[0]},
            labels=lambda answer: [(answer[0]["label"], answer[0]["score"])],
            batches=False,
        )


@contextmanager
def mlflow(folder: Path, classifier: Encoder) -> Iterator[Contender]:
    """`mlflow models serve` of the same pipeline."""
    import logging

    import mlflow.transformers
    from transformers import pipeline

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it looks for a model card of the folder on the Hub

    mlflow.transformers.save_model(
        pipeline("text-classification", model=classifier.model, tokenizer=classifier.tokenizer),
        str(folder / "mlflow"),
        pip_requirements=["transformers"],
        input_example=["a good film"],
    )
    port = serve.free_ports().http
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder / "mlflow"), "--env-manager=local"]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    with _process(command, f"http://127.0.0.1:{port}/ping", folder, "mlflow.log") as pid:
        yield Contender(
            name="mlflow models serve",
            url=f"http://127.0.0.1:{port}/invocations",
            pid=pid,
            body=lambda texts: {"inputs": texts},
            labels=lambda answer: [(row["label"], row["score"]) for row in _rows(answer)],
            batches=True,
        )


def _rows(answer: Any) -> list[dict[str, Any]]:
    """MLflow gives records, or a record of columns, inside `predictions` or not."""
    found = answer.get("predictions", answer) if isinstance(answer, dict) else answer
    return [found] if isinstance(found, dict) else list(found)


@contextmanager
def _process(command: list[str], ping: str, folder: Path, log: str) -> Iterator[int]:
    """A server in a process group of its own, until the block ends; its pid."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow starts uvicorn by name
    variables = {**_laptop.environment(), "PATH": path}
    with (folder / log).open("wb") as output:
        started = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder, env=variables
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(urllib3.exceptions.HTTPError):
                if urllib3.request("GET", ping, retries=False).status == 200:
                    break
            if time.monotonic() > deadline or started.poll() is not None:
                raise SystemExit(f"{command} did not start:\n{(folder / log).read_text()[-3000:]}")
            time.sleep(0.3)
        yield started.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
