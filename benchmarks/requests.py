"""What a run asks of S3: requests of each cached step, of a cached run and of a rollout, by the length of the ledger.

    python -m benchmarks.requests [--entries 10 10000]

A tiny model is trained, promoted over a champion and rolled out on a Triton server for each length, with a store in a
real server of the S3 protocol (moto), which counts. The entries before the champion's are of models that never were.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import _laptop, _machine
from regraft import pipeline, stack
from regraft.digests import sha256
from regraft.errors import Exit
from regraft.ledger import Entry, Ledger
from regraft.store import Store
from tests import champions
from tests.worlds import Tiny
from tests.worlds.text_classification import rows

RUNS = [f"2026-{month:02}-02T03-00" for month in range(1, 13)]


class Bucket:
    """A server of the S3 protocol that counts what it is asked."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        answer, self.asked = DomainDispatcherApplication(create_backend_app), 0

        def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            self.asked += 1
            return answer(environ, start)

        self.server = make_server("127.0.0.1", 0, counted, threaded=True)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def during(self, act: Callable[[], Any]) -> int:
        """Requests while something is done."""
        before = self.asked
        act()
        return self.asked - before


@contextmanager
def bucket() -> Iterator[Bucket]:
    """The server, with one bucket `bench`; this process and those that it starts have its address and credentials."""
    import boto3

    made = Bucket()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server.server_port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    boto3.client("s3").create_bucket(Bucket="bench")
    yield made
    made.server.shutdown()


def lengthen(store: Store, champion: Entry, entries: int) -> None:
    """Writes the ledger anew: as many entries, of which the last is that of the champion."""
    store.remove("ledger")
    before = None
    for sequence in range(1, entries):
        before = Entry(
            sequence=sequence,
            kind="promote",
            version=1_000_000 + sequence,
            model=sha256(["model", sequence]),
            run="2025-12-31T03-00",
            evaluation=sha256(["evaluation", sequence]),
            reason="is no worse",
            who="benchmark",
            at=datetime.now(UTC),
        )
        store.create(f"ledger/{sequence:08}.json", before.model_dump_json(indent=1, exclude_none=True).encode())
    about = champion.model_dump(include={"kind", "version", "model", "run", "evaluation", "reason"})
    Ledger(store).append(before, **about)


def measure(laptop: _laptop.Laptop, world: Tiny, counter: Bucket, lengths: list[int]) -> dict[str, list[int]]:
    """Requests by what they were for, one number a length."""
    servers = laptop.stack
    if servers.mlflow is None or servers.triton is None:
        raise SystemExit("the laptop's servers are not up")
    variables = {
        **os.environ,
        **laptop.environment,
        "MLFLOW_TRACKING_URI": servers.mlflow.url,
        "REGRAFT_TRITON_URLS": servers.triton.url.removeprefix("http://"),
        "REGRAFT_TRITON_TOKEN": stack.triton_token(laptop.folder / ".regraft") or "",
        "REGRAFT_MODEL_REPOSITORY": str(laptop.folder / ".regraft/models"),
        "OMP_NUM_THREADS": "1",
    }

    def step(name: str, run: str) -> None:
        words = ["--recipe", str(world.recipe), "--store", world.store.url, "--run", run]
        command = [sys.executable, "-m", f"components.{name}", *words]
        done = subprocess.run(command, cwd=laptop.folder, env=variables, capture_output=True, text=True)
        if done.returncode != Exit.DONE:
            raise SystemExit(f"{name} ended with {done.returncode}\n{done.stdout}{done.stderr}")

    def as_typed(run: str) -> None:
        laptop.regraft("run", str(world.recipe), "--store", world.store.url, "--run", run)

    first, *others = RUNS
    world.put(rows(400, wrong=0.5))  # so that the first champion knows nothing and each challenger surely beats it
    as_typed(first)
    champion = world.ledger.head()
    assert champion is not None
    world.put(rows(600))
    found: dict[str, list[int]] = {}

    def count(what: str, act: Callable[[], Any]) -> None:
        found.setdefault(what, []).append(counter.during(act))

    for number, (length, run) in enumerate(zip(lengths, others, strict=False), start=1):
        lengthen(world.store, champion, length)
        world.declare(epochs=16 + number)  # of five seeds the worst comes to an F1 of 0.98
        world.recipe.write_text(world.recipe.read_text().replace("learning_rate: 1e-2", "learning_rate: 3e-3"))
        for name in [each.name for each in pipeline.STEPS]:
            what = {"promote": "promote, a new champion", "deploy": "deploy, its rollout"}.get(name)
            if what:
                count(what, lambda name=name, run=run: step(name, run))  # type: ignore[misc]
            else:
                step(name, run)
        for name in [each.name for each in pipeline.STEPS]:
            count(f"{name}, cached", lambda name=name, run=run: step(name, run))  # type: ignore[misc]
            if not world.pointer(name, run)["cached"]:
                raise SystemExit(f"{name} was not cached")
        count("a cached run, as typed", lambda run=run: as_typed(run))  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10, 10_000], metavar="N")
    arguments = parser.parse_args()
    if len(arguments.entries) >= len(RUNS) or min(arguments.entries) < 2:
        parser.error(f"--entries takes at most {len(RUNS) - 1} numbers of at least 2")
    _machine.show()
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as made, bucket() as counter:
        folder = Path(made)
        world = Tiny(folder / "world", champions.base(folder / "base"))
        world.store = Store("s3://bench/store", "tiny")
        with _laptop.up(folder / "laptop", world.recipe) as laptop:
            found = measure(laptop, world, counter, arguments.entries)
    heads = [f"{entries:,} entries" for entries in arguments.entries]
    table = Table("requests of S3", *heads, box=None, padding=(0, 3, 0, 0))
    for what, counts in found.items():
        table.add_row(what, *(f"{count:,}" for count in counts))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
