"""How Triton serves a classifier: text in, label and probabilities out; and how near to those offline they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regraft import encoders
from regraft.encoders import Encoder
from regraft.tasks.text_classification.model import probabilities
from regraft.tasks.text_classification.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

COMPARED = "a probability"
"""What `distance` is a difference of, in sentences."""


class Served(NamedTuple):
    """What Triton answers to texts: labels, and probabilities of shape (texts, labels)."""

    labels: list[str]
    probabilities: npt.NDArray[np.float32]


def tensors(recipe: Recipe) -> str:
    """Inputs and outputs, as config.pbtxt has them."""
    wide = len(recipe.data.labels)
    return encoders.tensors({"label": "TYPE_STRING dims: [ 1 ]", "probabilities": f"TYPE_FP32 dims: [ {wide} ]"})


def build(recipe: Recipe, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json."""
    own = encoders.build(recipe, encoder, folder, program=Path(__file__).with_name("program.py"))
    return {**own, "labels": list(recipe.data.labels)}


def read(answer: Any) -> Served:
    """What an answer of tritonclient says."""
    labels = [label.decode() for label in answer.as_numpy("label").reshape(-1)]
    return Served(labels, answer.as_numpy("probabilities"))


def joined(parts: Iterable[Served]) -> Served:
    """Answers of several requests as one."""
    import numpy as np

    labels, probabilities = zip(*parts, strict=True)
    return Served([label for some in labels for label in some], np.concatenate(probabilities))


def flaw(recipe: Recipe, served: Served, offline: Any) -> str | None:
    """What is wrong with answers, however near they are; None where nothing is."""
    import numpy as np

    scores = served.probabilities
    if scores.shape != (offline.num_rows, offline.num_columns) or not np.isfinite(scores).all():
        return f"shape {scores.shape}, finite: {bool(np.isfinite(scores).all())}"
    if served.labels != [recipe.data.labels[i] for i in scores.argmax(axis=1)]:
        return "the label is not the one with the highest probability"
    return None


def distance(one: Any, other: Any) -> float:
    """The largest difference of a probability."""
    return float(abs(probabilities(one) - probabilities(other)).max())


def numbers(served: Served) -> Any:
    """Answers as they are offline."""
    import pyarrow as pa

    return pa.table({f"p{i}": served.probabilities[:, i] for i in range(served.probabilities.shape[1])})


def said(recipe: Recipe, row: Mapping[str, Any], outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """An answer for people, of the outputs of Triton's JSON to a row."""
    scores = dict(zip(recipe.data.labels, outputs["probabilities"], strict=True))
    return {"label": outputs["label"][0], "probabilities": scores}


def short(said: Mapping[str, Any]) -> str:
    """The same in a few words."""
    return f"{said['label']} {said['probabilities'][said['label']]:.0%}"
