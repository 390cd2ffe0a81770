"""A folder with recipes, a store and stand-in steps, and the environment in which Airflow finds them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from regraft.store import Store

ROOT = Path(__file__).parents[2]
STEPS_PYTHON = os.environ.get("REGRAFT_PYTHON") or str(ROOT / ".venv/bin/python")
MINIMAL = """\
name: reviews
task: text-classification
data:
  source: data.csv
  columns: {text: text, label: label}
  labels: [negative, positive]
base_model: {source: base}
"""
WEEKLY = MINIMAL + "schedule: {cron: '0 3 * * 1', timezone: Europe/Berlin}\n"


class Laptop:
    """Recipes, store and marks of the stand-in steps below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes, self.marks, self.home = folder / "recipes", folder / "marks", folder / "airflow"
        for each in (self.recipes, self.marks, self.home):
            each.mkdir(parents=True)
        for name in ("validate", "finetune", "evaluate", "promote", "deploy"):
            package = folder / "stubs/components" / name
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            run = f"import runpy, sys\nsys.argv.insert(1, {name!r})\n"
            (package / "__main__.py").write_text(run + "runpy.run_module('tests.airflow.stub', run_name='__main__')\n")
            (package / "follow.py").write_text(f"print('{{\"differences\": []}}', {name!r})\n")
        (folder / "stubs/components/__init__.py").touch()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "REGRAFT_STORE": str(self.folder / "store"),
            "REGRAFT_RECIPES": str(self.recipes),
            "REGRAFT_PYTHON": STEPS_PYTHON,
            "REGRAFT_RETRY_SECONDS": "0.1",
            "REGRAFT_WATCH_SECONDS": "1",
            "REGRAFT_SCRATCH": str(self.folder),
            "STUB_MARKS": str(self.marks),
            "PYTHONPATH": f"{self.folder / 'stubs'}:{ROOT}",
            "REGRAFT_TRITON_URLS": "127.0.0.1:8000",
        }

    def recipe(self, name: str, more: str = "", text: str = WEEKLY) -> str:
        text = text.replace("name: reviews", f"name: {name}") + more
        (self.recipes / f"{name}.yaml").write_text(text)
        return text

    def store(self, name: str) -> Store:
        return Store(self.environment["REGRAFT_STORE"], name)

    def mode(self, step: str, mode: str) -> None:
        (self.marks / f"{step}.mode").write_text(mode)

    def log(self) -> list[str]:
        file = self.marks / "log"
        return file.read_text().splitlines() if file.exists() else []

    def pointer(self, name: str, run: str, step: str) -> dict[str, Any]:
        return dict(self.store(name).read_json(f"runs/{run}/{step}.json"))

    def identities(self, name: str, run: str) -> dict[str, tuple[str, str]]:
        """Identity and digest of each step of a run."""
        found = {}
        for step in ("validate", "finetune", "evaluate", "promote", "deploy"):
            identity = self.pointer(name, run, step)["identity"]
            manifest = self.store(name).manifest(f"{step}/{identity}")
            assert manifest is not None
            found[step] = (identity, manifest.digest)
        return found


@contextmanager
def slack() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that stands for Slack: its address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()
