"""Requests a second and p99 of one text a request: what deploy serves, against what a team would write first.

    python -m benchmarks.serving [--seconds 5] [--rounds 2] [--clients 1 8 32]

Contestants: deploy's version directory on a real tritonserver (ONNX fp32 and int8), FastAPI + transformers.pipeline,
and `mlflow models serve`. All have the same model (MiniLM with a random head) and the same texts, all run at once, and
take turns in every round, so that what else the machine does hits them alike. Clients are threads of this process that
speak JSON over connections kept open.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3

from components.deploy import export, serve
from regraft import recipe as recipes
from regraft import sources
from regraft.ledger import Entry
from regraft.tasks.text_classification import Classifier

RECIPE = Path(__file__).parents[1] / "dags" / "recipes" / "movie-sentiment.yaml"

FASTAPI = """\
import sys
from fastapi import FastAPI
from transformers import pipeline
app = FastAPI()
classify = pipeline("text-classification", model={model!r}, top_k=None)
@app.post("/predict")
def predict(request: dict):
    return classify([request["text"]], truncation=True, max_length=64)
@app.get("/ping")
def ping():
    return {{}}
"""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    name: str
    url: str
    body: Callable[[str], dict[str, Any]]


def texts(recipe: recipes.Recipe, count: int = 2000) -> list[str]:
    """Real texts of the recipe's data."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(sources.expand(recipe.data.source)).head(count, columns=[recipe.data.columns.text])
    return [str(text) for text in table[recipe.data.columns.text].to_pylist() if text]


def model(recipe: recipes.Recipe, folder: Path) -> Classifier:
    """The base model with a random head, also saved in `folder` for the others."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    source = sources.expand(recipe.base_model.source)
    loaded = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Classifier(loaded, tokenizer, recipe.training.max_length)


@contextmanager
def triton(recipe: recipes.Recipe, classifier: Classifier, folder: Path) -> Iterator[str]:
    """A tritonserver with the version directory that deploy would publish; yields the URL of its model."""
    entry = Entry(
        sequence=1,
        kind="promote",
        version=1,
        model="benchmark",
        run="",
        evaluation="",
        reason="",
        who="",
        at=datetime.now(UTC),
    )
    export.build(recipe, entry, classifier, folder / "models" / recipe.name / "1", settings="benchmark")
    (folder / "models" / recipe.name / "config.pbtxt").write_text(export.config(recipe, [1]))
    with serve.running(repository=folder / "models", log=folder / "triton.log") as server:
        yield f"http://{server.address}/v2/models/{recipe.name}/infer"


@contextmanager
def process(command: list[str], ping: str, log: Path, folder: Path) -> Iterator[None]:
    """A server in a process group of its own, until the block ends."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow starts uvicorn by name
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "PATH": path},
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if urllib3.request("GET", ping, retries=False).status == 200:
                    break
            except urllib3.exceptions.HTTPError:
                pass
            if time.monotonic() > deadline or started.poll() is not None:
                raise SystemExit(f"{command} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def measure(contestant: Contestant, words: list[str], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and the seconds of each."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        pool = urllib3.PoolManager(maxsize=1, retries=False)
        for text in itertools.islice(itertools.cycle(words), number * 37, None):
            started = time.perf_counter()
            if started > until:
                break
            answer = pool.request("POST", contestant.url, json=contestant.body(text))
            if answer.status != 200:
                raise SystemExit(f"{contestant.name}: {answer.status} {answer.data[:300]!r}")
            json.loads(answer.data)
            latencies[number].append(time.perf_counter() - started)
        pool.clear()

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_of_them = [one for some in latencies for one in some]
    return len(all_of_them) / (time.perf_counter() - began), all_of_them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    recipe = recipes.load(RECIPE)
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        words = texts(recipe)
        classifier = model(recipe, folder / "model")
        contestants = []
        for precision in ("int8", "fp32"):
            serving = recipe.serving.model_copy(update={"precision": precision})
            varied = recipe.model_copy(update={"serving": serving})
            url = stack.enter_context(triton(varied, classifier, folder / precision))
            contestants.append(
                Contestant(
                    name=f"regraft, onnx {precision}",
                    url=url,
                    body=lambda text: {
                        "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]
                    },
                )
            )
        port = serve.free_ports().http
        (folder / "app.py").write_text(FASTAPI.format(model=str(folder / "model")))
        uvicorn = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
        stack.enter_context(process(uvicorn, f"http://127.0.0.1:{port}/ping", folder / "fastapi.log", folder))
        contestants.append(
            Contestant(
                name="FastAPI + pipeline", url=f"http://127.0.0.1:{port}/predict", body=lambda text: {"text": text}
            )
        )
        contestants.append(stack.enter_context(mlflow(folder, classifier)))
        print(f"{'clients':>7}  {'contestant':22} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'times FastAPI':>14}")
        for clients in arguments.clients:
            rates: dict[str, list[float]] = {}
            times: dict[str, list[float]] = {}
            for contestant in contestants:
                measure(contestant, words, clients, 1)
            for _ in range(arguments.rounds):
                for contestant in contestants:
                    rate, seconds = measure(contestant, words, clients, arguments.seconds)
                    rates.setdefault(contestant.name, []).append(rate)
                    times.setdefault(contestant.name, []).extend(seconds)
            reference = statistics.mean(rates["FastAPI + pipeline"])
            for name, some in rates.items():
                cuts = statistics.quantiles(times[name], n=100)
                rate = statistics.mean(some)
                print(
                    f"{clients:7}  {name:22} {rate:10.1f} {cuts[49] * 1000:8.1f} {cuts[98] * 1000:8.1f} "
                    f"{rate / reference:13.2f}x",
                    flush=True,
                )


@contextmanager
def mlflow(folder: Path, classifier: Classifier) -> Iterator[Contestant]:
    """`mlflow models serve` of the same pipeline."""
    import mlflow.transformers
    from transformers import pipeline

    saved = folder / "mlflow"
    mlflow.transformers.save_model(
        pipeline("text-classification", model=classifier.model, tokenizer=classifier.tokenizer),
        str(saved),
        pip_requirements=["transformers"],
        input_example=["a good film"],
    )
    port = serve.free_ports().http
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local",
        "-h", "127.0.0.1", "-p", str(port),
    ]  # fmt: skip
    with process(command, f"http://127.0.0.1:{port}/ping", folder / "mlflow.log", folder):
        yield Contestant(
            name="mlflow models serve",
            url=f"http://127.0.0.1:{port}/invocations",
            body=lambda text: {"inputs": [text]},
        )


if __name__ == "__main__":
    main()
