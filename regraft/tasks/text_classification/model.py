"""Text in, one label of a fixed set out, with the probability of each: an encoder with a head over the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import encoders
from regraft.encoders import Encoder
from regraft.tasks.text_classification.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HEAD: encoders.Head = "SequenceClassification"


def for_training(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """The base model with a fresh adapter and head, and its tokenizer."""
    return encoders.for_training(recipe, folder, head=HEAD, outputs=recipe.data.labels)


def load(recipe: Recipe, files: Path, folder: Path) -> Encoder:
    """The model of a finetune, from the files it published."""
    return encoders.load(recipe, files, folder, head=HEAD, outputs=recipe.data.labels)


def logits(encoder: Encoder, texts: Sequence[str], size: int = 64) -> npt.NDArray[np.float32]:
    """Raw scores, shape (texts, labels)."""
    import numpy as np

    token_ids = encoder.tokenizer(list(texts), truncation=True, max_length=encoder.max_length)["input_ids"]
    out = np.zeros((len(texts), encoder.model.config.num_labels), dtype=np.float32)
    for rows, scores in encoders.outputs_of(encoder, token_ids, size):
        out[rows] = scores
    return out


def answers(encoder: Encoder, rows: Any) -> Any:
    """A table of the probabilities of the labels, one column each: p0, p1, ...; softmax of the logits."""
    import pyarrow as pa
    from scipy.special import softmax

    scores = softmax(logits(encoder, rows["text"].to_pylist()), axis=1)
    return pa.table({f"p{i}": scores[:, i] for i in range(scores.shape[1])})


def probabilities(answers: Any) -> npt.NDArray[np.float64]:
    """Answers as an array of shape (rows, labels)."""
    import numpy as np

    return np.column_stack([answers[name].to_numpy() for name in answers.column_names]).astype(np.float64)
