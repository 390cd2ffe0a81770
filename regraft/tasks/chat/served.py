"""How Triton serves an assistant: a conversation, with the tools that it may call in, the answer out piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.causal import Causal, served
from regraft.causal.conversations import opened, transcript, written
from regraft.tasks.chat.recipe import Recipe


def tensors(recipe: Recipe) -> str:
    """Inputs and outputs, as config.pbtxt has them."""
    return served.tensors("messages")


def build(recipe: Recipe, model: Causal, folder: Path) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json."""
    return served.build(model, folder, asks="messages")


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a request for one row, by their names."""
    turns = opened(json.loads(row["text"]))
    return {name: written(value) for name, value in turns.items()}


def request(rows: Any) -> list[dict[str, Any]]:
    """Requests for rows, one each, whose answers come piece by piece."""
    return served.streaming(map(asked, rows.to_pylist()))


def said(recipe: Recipe, row: Mapping[str, Any], outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """An answer for people, of the outputs of Triton's JSON to a row."""
    return served.said(transcript(row["text"]), outputs)
