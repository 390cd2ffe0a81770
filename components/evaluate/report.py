"""The report of one run: a single HTML file that opens offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from regraft import verdicts, views
from regraft.exchange import Contest, Examples
from regraft.manifest import Manifest
from regraft.step import Work


def write_predictions(path: Path, contest: Contest, columns: Mapping[str, Any]) -> None:
    """Each clean holdout row, with what the task keeps of it and of both models' answers to it."""
    pq.write_table(pa.table({"digest": contest.rows["digest"], **columns}), path)


def render(
    context: Work,
    contest: Contest,
    *,
    examples: list[Examples],
    data: Manifest,
    model: Manifest,
    plots: dict[str, str],
    measured: dict[str, float],
) -> str:
    """The report's HTML: everything inline, nothing fetched."""
    folder = context.fetch(data, "validation.json")
    return views.page(
        "components.evaluate",
        "report.html.j2",
        recipe=context.recipe,
        run=context.run,
        verdict=verdicts.said(contest.verdict.model_dump(mode="json")),
        examples=examples,
        plots={name: views.inline(svg) for name, svg in plots.items()},
        validation=json.loads((folder / "validation.json").read_text()),
        identities={"data": data.identity, "model": model.identity, "evaluation": context.identity},
        inputs=context.inputs,
        measured=measured,
        model=model,
    )
