"""What a served model answers does not depend on who shares the batch, whatever it computes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from components.deploy import replica, serve
from regraft import tasks
from tests import champions

pytestmark = pytest.mark.slow

LONG = [" ".join(champions.WORDS[(i + j) % len(champions.WORDS)] for j in range(60)) for i in range(8)]
"""Neighbours that fill the model's length, so that whoever is padded to the batch is padded a lot."""
SERVED = {"bf16": ("onnx", "bf16"), "fp32": ("onnx", "fp32"), "torch": ("torch", "fp32")}
"""Every way that can be chosen: its backend and precision."""


@pytest.mark.parametrize("way", SERVED)
def test_an_answer_is_the_same_alone_in_a_batch_and_beside_long_neighbours(way: str, tmp_path: Path) -> None:
    backend, precision = SERVED[way]
    if precision == "bf16" and not champions.BF16:
        pytest.skip("this processor does not compute in bf16, and deploy does not choose it here")
    file = champions.recipe_file(tmp_path, champions.base(tmp_path / "base"), serving=f"{{backend: {backend}}}")
    file.write_text(file.read_text().replace("max_length: 16", "max_length: 64"))
    recipe = champions.load_recipe(file)
    classifier = champions.repository(tmp_path, recipe, precision)
    texts = champions.TEXTS[:24]
    with (
        serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server,
        replica.calling(server.address, recipe, 1) as ask,
    ):

        def said(*asked: str) -> npt.NDArray[np.float32]:
            return np.asarray(ask(pa.table({"text": asked}))[0].probabilities)

        alone = np.concatenate([said(text) for text in texts])
        together = said(*texts)
        beside_long = np.concatenate([said(*LONG[:4], text, *LONG[4:])[4:5] for text in texts])
        backwards = said(*LONG, *texts[::-1])[len(LONG) :][::-1]
    assert np.ptp(alone) > 0.1, "all answers are alike, so this test shows nothing"
    for others in (together, beside_long, backwards):
        np.testing.assert_allclose(others, alone, rtol=0, atol=1e-4 if precision == "fp32" else 2e-3)
    if precision == "fp32":  # random weights amplify bf16's rounding, also in torch
        offline = tasks.of(recipe.task).answers(classifier, pa.table({"text": texts}))
        np.testing.assert_allclose(alone, np.stack(offline.columns, axis=1), rtol=0, atol=1e-4)
