"""No step declares a field of the recipe that it never reads: one run of all steps, in which what is read is noted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.deploy import serve
from regraft import pipeline, tasks
from tests.worlds import LATER, Tiny
from tests.worlds.text_classification import rows

EARLIER = "2026-11-16T03-00"
TASK = tasks.of("text-classification")
NOTED = """
import os, sys
from regraft import narrowed

read = narrowed.Narrowed.__getattr__

def noted(part, name):
    value, caller = read(part, name), sys._getframe(1)
    if caller.f_back.f_code.co_name != "recipe_part":  # which reads all that counts, whoever uses it
        with open(os.environ["READS"], "a") as file:
            file.write(f"{part._path}{name}\\n")
    return value

narrowed.Narrowed.__getattr__ = noted
"""
"""What Python executes first in a process that finds it as sitecustomize.py."""


def declare_all(tiny: Tiny) -> None:
    """A recipe of CSV with a time column, a limit on tokens and an anchor set, so that all is read that can be."""
    table = tiny.folder / "data.csv"
    lines = ["text,label,arrived", *(f"{row['text']},{row['label']},2026-11-29" for row in rows(400))]
    table.write_text("\n".join(lines) + "\n")
    tiny.declare("description: reads all\nowner: us", epochs=5)
    text = tiny.recipe.read_text()
    for part, more in (
        (str(tiny.data), str(table)),
        ("label: label", "label: label, time: arrived"),
        ("contract: {", "contract: {tokens: {max: 100}, "),
        ("min_rows: 20, ", f"min_rows: 20, margin: 1, forgetting: {{anchor: {table}, max_drop: 1}}, "),
    ):
        assert part in text
        text = text.replace(part, more)
    tiny.recipe.write_text(text)


@pytest.mark.slow
def test_each_field_that_a_step_declares_is_read_by_it(tiny: Tiny, client: Any, tmp_path: Path) -> None:
    (tmp_path / "noted").mkdir()
    (tmp_path / "noted" / "sitecustomize.py").write_text(NOTED)
    (tmp_path / "models").mkdir()
    path = os.pathsep.join([str(tmp_path / "noted"), *filter(None, [os.environ.get("PYTHONPATH")])])
    tiny.declare(epochs=0.1)
    tiny.through("validate", "finetune", run=EARLIER)
    declare_all(tiny)
    with serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server:
        variables = {
            "PYTHONPATH": path,
            "REGRAFT_TRITON_URLS": server.address,
            "REGRAFT_MODEL_REPOSITORY": str(tmp_path / "models"),
            "REGRAFT_TRITONSERVER": str(serve.home()),
        }
        for step in pipeline.STEPS:
            if step.name == "promote":  # a weak model was first, so it decides again
                weak, evaluation = tiny.result("finetune", EARLIER).identity, tiny.result("evaluate").identity
                tiny.ledger.append(
                    None, kind="promote", version=7, model=weak, run=EARLIER, evaluation=evaluation, reason="test"
                )
            reads = tmp_path / f"{step.name}.reads"
            tiny.through(step.name, run=LATER, READS=str(reads), **variables)
            unread = {*step.recipe, *step.besides, *TASK.READS} - set(reads.read_text().splitlines())
            assert not unread, f"{step.name} declares and never reads"
