"""The task's part of the program that Triton runs: label and probabilities of the model's outputs. It stands alone."""

from typing import Any

import numpy as np
import numpy.typing as npt

OUTPUTS = ("label", "probabilities")
OFFSETS = False
"""Whether it reads where in the text each token is."""


def answers(
    serving: dict[str, Any], texts: list[str], encodings: list[Any], logits: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[Any], ...]:
    """Most probable label, shape (texts, 1), and probability of each, shape (texts, labels), fp32.

    Args:
        serving: what serving.json says.
        logits: shape (texts, labels).
    """
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: npt.NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    names = np.array([label.encode() for label in serving["labels"]], dtype=np.object_)
    return names[scores.argmax(axis=1)].reshape(-1, 1), scores
