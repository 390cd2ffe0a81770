"""Builds a version directory: everything that Triton needs to serve one champion, to the byte the same on every build.

model.py       the program, and the files that it reads: the task's
serving.json   which model this is, and what the program goes by
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.deploy.repository import digest
from regraft import pipeline, tasks
from regraft.ledger import Entry
from regraft.parts import Recipe
from regraft.processor import computes_in_bf16

CONFIG = """\
name: "{{ name }}"
backend: "python"
max_batch_size: {{ 0 if streams else serving.max_batch_size }}
{{ tensors }}instance_group [ { count: {{ serving.instances }} kind: KIND_CPU } ]
{% if streams %}model_transaction_policy { decoupled: true }{% else %}\
dynamic_batching { max_queue_delay_microseconds: {{ (serving.queue_delay_ms * 1000) | int }} }{% endif %}
version_policy { specific { versions: [ {{ versions | join(", ") }} ] } }
"""


def config(recipe: Recipe, versions: list[int]) -> str:
    """The text of config.pbtxt: how Triton serves the model, and which of its versions."""
    import jinja2

    # autoescape would turn text into HTML; every value here is a number or a name that the recipe has checked
    template = jinja2.Template(CONFIG, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    tensors = tasks.of(recipe.task).tensors(recipe)
    text: str = template.render(
        name=recipe.name,
        serving=recipe.serving,
        streams=tasks.streams(recipe.task),
        tensors=tensors,
        versions=sorted(versions),
    )
    return text


def precisions(recipe: Recipe) -> tuple[str, ...]:
    """The ways to compute that a deploy tries in turn, the fastest first; the last one has to hold.

    By measurement (`make bench BENCH=serving`): OpenVINO's bf16 takes half the time of ONNX Runtime's fp32 where the
    processor computes in bf16. Dynamic int8 would be faster still, but its answers depend on the batch.
    """
    wanted = recipe.serving.precision
    if recipe.serving.backend == "torch" or wanted == "fp32" or (wanted == "auto" and not computes_in_bf16()):
        return ("fp32",)
    return ("bf16", "fp32")


def build(recipe: Recipe, entry: Entry, model: Any, folder: Path, *, precision: str, settings: str) -> Path:
    """Writes the version directory of a champion.

    Args:
        model: the champion, as its task loads it.
        precision: one of `precisions`.
        settings: digest of what else the directory is built by.
        folder: an empty folder, not visible to Triton.

    Raises:
        BadInput: the model or tokenizer cannot be served this way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = tasks.of(recipe.task).build(recipe, model, folder)
    description = {
        "model": entry.model,
        "version": entry.version,
        "settings": settings,
        "data_end": int(pipeline.run_time(entry.run).timestamp()),
        "max_batch_size": recipe.serving.max_batch_size,
        "backend": recipe.serving.backend,
        "precision": precision,
        "threads": recipe.serving.threads,
        **own,
    }
    description["digest"] = digest(description, folder)
    (folder / "serving.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder
