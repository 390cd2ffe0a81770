"""A conversation in, the assistant's next turn out."""

from __future__ import annotations

import json
from typing import Any

from regraft.causal import Causal, answering
from regraft.causal.assistant import asks, taught


def answers(model: Causal, rows: Any) -> Any:
    """What a model says to each row, as `answering.table`: what is right are all of the assistant's turns."""
    texts = rows["text"].to_pylist()
    pairs = zip(texts, rows["answer"].to_pylist(), strict=True)
    right = [taught(model.tokenizer, model.told, pair, **model.room) for pair in pairs]
    return answering.table(model, asks(model, map(json.loads, texts)), right)
