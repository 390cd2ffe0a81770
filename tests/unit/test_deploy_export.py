"""What a version directory holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from regraft.store import Store
from tests import champions

pytestmark = pytest.mark.slow

BUILD = """
import hashlib
import sys
from pathlib import Path
from components.deploy import export
from regraft import step, tasks
from regraft.ledger import Ledger
from regraft.store import Store
from tests import champions
work, to, backend = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
recipe = champions.load_recipe(work / "recipe.yaml")
recipe = recipe.model_copy(update={"serving": recipe.serving.model_copy(update={"backend": backend})})
store = Store(str(work / "store"), recipe.name)
entry = Ledger(store).head()
files = store.fetch(f"finetune/{entry.model}", step.result_of(store, "finetune", entry.model), to / "finetune")
classifier = tasks.of(recipe.task).load(recipe, files, to / "base")
built = export.build(recipe, entry, classifier, to / "built", precision="fp32", settings="s")
for file in sorted(path for path in built.rglob("*") if path.is_file()):
    print(file.relative_to(built), hashlib.sha256(file.read_bytes()).hexdigest())
"""


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_two_builds_are_the_same_to_the_byte_and_name_no_path(tmp_path: Path, backend: str) -> None:
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, champions.base(tmp_path / "base")))
    champions.promote(Store(str(tmp_path / "store"), recipe.name), recipe, tmp_path, 1)
    printed = [
        subprocess.run(
            [sys.executable, "-c", BUILD, str(tmp_path), str(tmp_path / attempt), backend],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for attempt in ("first", "second")
    ]
    assert printed[0] == printed[1]
    assert "model.py" in printed[0]
    for file in (tmp_path / "first" / "built").rglob("*"):
        if file.is_file() and file.name != "model.py":
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert b"site-packages" not in file.read_bytes(), file
