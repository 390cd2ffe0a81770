"""Each benchmark at its smallest size, away from what the user has; and what their tables rest on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from benchmarks import _laptop, _load, _machine
from benchmarks.__main__ import ELSEWHERE
from benchmarks.serving import Turn, targets
from tests.worlds import Tiny

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "airflow": ["--recipes", "1", "--times", "1"],
    "finetune": ["--rows", "64", "--dev", "40", "--every", "32", "--target", "0", "--threads", "1"],
    "kubeflow": ["--times", "1"],
    "overhead": ["--repeat", "1"],
    "requests": ["--entries", "2"],
    "serving": ["--rounds", "1", "--seconds", "0.3", "--clients", "1", "2", "--texts", "12"],
    "sft": ["--rows", "32", "--dev", "8", "--every", "16", "--target", "-100", "--length", "128", "--threads", "1"],
    "validate": ["--rows", "600"],
}
SAYS = {
    "airflow": "Airflow's scheduler",
    "finetune": "tutorial loop",
    "kubeflow": "kfp.local",
    "overhead": "a fully cached run, as typed",
    "requests": "deploy, its rollout",
    "serving": "alone and in a batch",
    "sft": "trl SFTTrainer",
    "validate": "CPU seconds",
}
TRAINED = ("overhead", "serving")
"""Those that serve a trained model: here one that is trained already."""
CPUINFO = """\
processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx2 avx512f avx512_vnni amx_bf16 amx_tile
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "benchmarks").glob("[!_]*.py")))
def test_a_benchmark_runs_and_leaves_alone_what_the_user_has(
    name: str, evaluated: Tiny, bases: Callable[[str], Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if name in ELSEWHERE and not (ROOT / ELSEWHERE[name]).exists():
        pytest.skip(f"needs {ELSEWHERE[name]}")
    refused = tmp_path / ".regraft/store/tiny/runs/2026-11-23T03-00/deploy.json"
    refused.parent.mkdir(parents=True)
    refused.write_text('{"state": "refused"}')
    theirs = {
        "REGRAFT_STORE": str(tmp_path / ".regraft/store"),
        "REGRAFT_TRITON_URLS": "127.0.0.1:1",
        "REGRAFT_MODEL_REPOSITORY": str(tmp_path / ".regraft/models"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    }
    arguments = SMALLEST[name]
    if name in (*TRAINED, "finetune"):
        arguments = [*arguments, "--recipe", str(evaluated.recipe)]
    if name == "sft":
        chat = Tiny(tmp_path_factory.mktemp("chat"), bases("chat"), {}, "chat")
        arguments = [*arguments, "--recipe", str(chat.recipe)]
    if name in TRAINED:
        arguments = [*arguments, "--store", str(evaluated.folder / "store")]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=tmp_path,
        env={**os.environ, **theirs, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAYS[name] in done.stdout
    assert "load before: " in done.stdout
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [refused]
    assert refused.read_text() == '{"state": "refused"}'


def test_the_machine_is_named_with_what_its_kernels_are_chosen_by() -> None:
    said = _machine.described(CPUINFO, 2, (0.25, 1, 2), datetime(2026, 11, 27, 20, 5, tzinfo=UTC), "commit abc")
    assert said == (
        "2026-11-27 20:05 UTC, commit abc\n"
        "Intel(R) Xeon(R) Processor (family 6, model 143), 2 cores: avx2 avx512f avx512_vnni amx_bf16; "
        "load before: 0.2 1.0 2.0"
    )
    assert "unknown (family unknown" in _machine.described("", 2, (0, 0, 0), datetime.now(UTC), "")


def test_a_store_before_promote_keeps_the_challenger_and_forgets_the_champion(tmp_path: Path) -> None:
    laptop = _laptop.Laptop(tmp_path, {})
    laptop.recipe_file.write_text(_laptop.EXAMPLE.read_text())
    mine = tmp_path / ".regraft/store/movie-sentiment"
    kept = [f"runs/{_laptop.RUN}/finetune.json", "finetune/a/manifest.json"]
    gone = [f"runs/{_laptop.RUN}/deploy.json", "promote/a/manifest.json", "ledger/00000001.json", "golden/a.json"]
    gone.append("approvals/a.json")
    for key in (*kept, *gone):
        (mine / key).parent.mkdir(parents=True, exist_ok=True)
        (mine / key).touch()
    copy = _laptop.trained(laptop, tmp_path / "copy") / "movie-sentiment"
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) == sorted(kept)
    assert all((mine / key).exists() for key in gone)


def test_the_targets_compare_medians_with_the_pipeline() -> None:
    def turn(rate: float, p99: float) -> Turn:
        return Turn(rate=rate, p50=0.1, p99=p99, cpu=0.01, load=0.0)

    turns = {
        (32, "ours"): [turn(100, 0.2), turn(250, 0.1), turn(300, 0.4)],
        (32, "FastAPI + pipeline"): [turn(50, 1.0), turn(40, 0.8), turn(60, 0.9)],
    }
    assert targets(turns, "ours") == [
        "32 clients, requests a second of ours against FastAPI + pipeline: 5.00 (target: at least 5)",
        "32 clients, p99 of ours against FastAPI + pipeline: 0.22 (target: at most 0.25)",
    ]


@pytest.fixture
def slow_server() -> Iterator[str]:
    """URL of a server that answers after 50 ms; with 500 where it is asked for 13 bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(0.05)
            answer = b"x" * body["length"]
            self.send_response(500 if body["length"] == 13 else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/infer"
    server.shutdown()
    server.server_close()


def test_each_client_waits_for_its_answer_and_the_ramp_does_not_count(slow_server: str) -> None:
    bodies = [json.dumps({"length": length}).encode() for length in (0, 1, 70_000)]
    found = asyncio.run(_load.load(slow_server, bodies, clients=3, seconds=0.5, ramp=0.2))
    latencies = found["latencies"]
    assert isinstance(latencies, list)
    assert len(latencies) == found["answered"] > 0
    assert min(latencies) >= 0.05
    assert int(str(found["answered"])) <= 3 * 10  # no client asks again before it has its answer
    assert int(str(found["sent"])) > int(str(found["answered"]))


def test_an_answer_other_than_200_ends_the_load(slow_server: str) -> None:
    with pytest.raises(_load.Refused, match=r"500.*x{13}"):
        asyncio.run(_load.load(slow_server, [b'{"length": 13}'], clients=2, seconds=0.2, ramp=0))
