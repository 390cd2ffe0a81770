"""How Triton serves a summarizer: a document in, the answer out piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.causal import Causal, served
from regraft.tasks.summarization.recipe import Recipe


def tensors(recipe: Recipe) -> str:
    """Inputs and outputs, as config.pbtxt has them."""
    return served.tensors("text")


def build(recipe: Recipe, model: Causal, folder: Path) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json."""
    return served.build(model, folder, asks="text")


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a request for one row, by their names."""
    return {"text": row["text"]}


def request(rows: Any) -> list[dict[str, Any]]:
    """Requests for rows, one each, whose answers come piece by piece."""
    return served.streaming(map(asked, rows.to_pylist()))


def said(recipe: Recipe, row: Mapping[str, Any], outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """An answer for people, of the outputs of Triton's JSON to a row."""
    return served.said(row["text"], outputs)
