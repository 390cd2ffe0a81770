"""The code that counts for a step's identity is found, not listed."""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from regraft import closure, pipeline, tasks
from regraft.errors import BadInput

ROOT = Path(__file__).parents[2]
TASK = "text-classification"
ALL = {step.name for step in pipeline.STEPS}
HARMLESS = {
    "fsspec": "carries bytes, whose digests are inputs",
    "huggingface-hub": "carries bytes, whose digests are compared; what it writes in the model card counts in finetune",
    "jinja2": "fills in the report, which is a view, and config.pbtxt, which is made at each rollout",
    "markupsafe": "jinja2's",
    "psutil": "says how much memory there is",
    "pydantic": "checks and writes the recipe, the verdict and the ledger",
    "requests": "carries bytes",
    "rich": "writes on terminals",
    "tenacity": "tries again",
    "tritonclient": "carries questions and answers",
    "urllib3": "carries bytes",
}
"""What steps import and what cannot determine what they put out."""
TELLS_ONLY = {("validate", "matplotlib"), ("finetune", "mlflow-skinny"), ("evaluate", "mlflow-skinny")}
"""What only tells others in one step: validate's pictures are on the data page, a view, and evaluate's are outputs; in
promote, mlflow writes the model that is registered."""
SAID_BY_TASKS = {("validate", "transformers")}
"""What a step runs for some tasks only, which name it in their LIBRARIES."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, with a second task in a folder of its own."""
    for package in ("regraft", "components"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    other = tmp_path / "regraft" / "tasks" / "other"
    other.mkdir()
    (other / "__init__.py").write_text("from regraft import gate\n")
    return tmp_path


def digests(tree: Path, task: str = TASK) -> dict[str, str]:
    return {step: closure.digest(f"components.{step}", task=task, root=str(tree)) for step in sorted(ALL)}


def changed(tree: Path, path: str, task: str = TASK) -> set[str]:
    """The steps whose digest is another after a line is added to a file, or the file is added."""
    before = digests(tree, task)
    file = tree / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b"\n")
    after = digests(tree, task)
    return {step for step in ALL if before[step] != after[step]}


@pytest.mark.parametrize(
    "path",
    [
        "regraft/tasks/translation.py",
        "regraft/tasks/other/__init__.py",
        "regraft/tasks/other/report.html.j2",
        "regraft/store.py",
        "regraft/summary.py",
        "regraft/recipe.schema.json",
        "components/evaluate/__pycache__/report.cpython-311.pyc",
        "components/evaluate/templates/.DS_Store",
        "components/__init__.py",
    ],
)
def test_what_cannot_change_an_output_changes_no_identity(tree: Path, path: str) -> None:
    assert changed(tree, path) == set()


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("regraft/sources.py", ALL),
        ("regraft/base_model.py", ALL),
        ("regraft/encoders.py", ALL),
        ("regraft/serving/encoder.py", ALL),
        ("regraft/tasks/text_classification/model.py", ALL),
        ("regraft/tracking.py", {"finetune", "evaluate", "promote"}),
        ("regraft/verdicts.py", {"evaluate", "promote", "deploy"}),
        ("regraft/contest.py", {"evaluate", "promote"}),
        ("regraft/tally.py", ALL),
        ("regraft/reading/lines.py", {"validate", "evaluate", "promote"}),
        ("regraft/reading/suffixes.txt", {"validate", "evaluate", "promote"}),
        ("regraft/reading/__init__.py", {"validate", "evaluate", "promote"}),
        ("components/validate/docs.css", {"validate"}),
        ("components/finetune/worker.py", {"finetune"}),
        ("components/evaluate/templates/report.html.j2", {"evaluate"}),
        ("regraft/tasks/text_classification/program.py", ALL),
        ("components/deploy/front.py", {"deploy"}),
    ],
)
def test_what_can_change_an_output_changes_the_identities_of_the_steps_that_use_it(
    tree: Path, path: str, steps: set[str]
) -> None:
    assert changed(tree, path) == steps


def test_a_step_goes_by_all_files_of_its_recipes_task_and_of_no_other(tree: Path) -> None:
    assert changed(tree, "regraft/tasks/other/labels.json", task="other") == ALL
    assert changed(tree, "regraft/tasks/text_classification/model.py", task="other") == set()
    finetune = closure.files("components.finetune", task="other", root=str(tree))
    assert {"regraft/tasks/other/__init__.py", "regraft/gate.py"} <= set(finetune)


def test_where_code_lies_does_not_count(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for package in ("regraft", "components"):
        shutil.copytree(tree / package, moved / package)
    assert digests(moved) == digests(tree)
    shutil.rmtree(tree / "regraft" / "tasks" / "other")
    installed = {step: closure.digest(f"components.{step}", task=TASK) for step in ALL}
    assert digests(tree) == installed


def imports(source: bytes) -> set[str]:
    """As `closure.imported`, by the parser, of all packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*")}
    return names


@pytest.mark.parametrize("folder", ["regraft", "components"])
def test_imports_are_found_as_the_parser_finds_them(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        source = file.read_bytes()
        assert closure.imported(source) == {name for name in imports(source) if name.split(".")[0] == "regraft"}, file


def test_imports_of_all_forms_are_found() -> None:
    source = b"""from regraft import a, b as c  # d
import os, regraft.e as f, regraft.g
import regraft.h  # regraft.i
if True:
    from regraft.j import (  # noqa
        k,  # l, m
        n as o,
    )
    from regraft.p import *
    from regrafted import q
    import regrafted, notregraft.r
"""
    assert closure.imported(source) == {name for name in imports(source) if name.split(".")[0] == "regraft"}
    assert closure.imported(source.replace(b"\n", b"\r\n")) == closure.imported(source)


def test_no_code_that_counts_imports_by_a_name_that_it_puts_together_but_for_the_task() -> None:
    for step in sorted(ALL):
        for path, content in closure.files(f"components.{step}", task=TASK).items():
            if path != "regraft/tasks/__init__.py":
                assert b"import_module" not in content, path
                assert b"__import__" not in content, path


def test_no_module_is_named_as_not_counting_that_no_code_imports() -> None:
    code = [content for step in ALL for content in closure.files(f"components.{step}", task=TASK).values()]
    used = {name for content in code for name in closure.imported(content)}
    assert set(closure.BESIDES) <= used


@pytest.mark.parametrize(
    ("step", "task", "missing"),
    [("nothing", TASK, "components.nothing"), ("finetune", "nothing-yet", "regraft.tasks.nothing_yet")],
)
def test_code_that_is_not_installed_is_one_clear_error(step: str, task: str, missing: str) -> None:
    declared = dataclasses.replace(pipeline.step("finetune"), name=step)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=f"the code of step {step} is not installed: {missing}"):
        pipeline.code_digest(declared, task)


@pytest.mark.parametrize("step", pipeline.STEPS, ids=lambda step: step.name)
def test_each_library_that_a_steps_code_imports_counts_unless_it_cannot_determine_the_output(
    step: pipeline.Step,
) -> None:
    """Of those that its image has: what an image lacks, the step cannot import."""
    locked = (ROOT / "requirements" / f"{step.name}.txt").read_text()
    if "\npeft==" in locked:  # an image with models has torch, from a file of its own
        locked += (ROOT / "requirements/torch-cpu.txt").read_text()
    there = {_normal(name) for name in re.findall(r"^([\w.-]+)==", locked, re.MULTILINE)}
    sources = closure.files(f"components.{step.name}", task=TASK)
    packages = {name.split(".")[0] for path, code in sources.items() if path.endswith(".py") for name in imports(code)}
    known = packages_distributions()
    used = {_normal(name) for package in packages - sys.stdlib_module_names for name in known.get(package, [])}
    determining = {name for name in used & there - set(HARMLESS) if (step.name, name) not in TELLS_ONLY | SAID_BY_TASKS}
    assert determining <= set(step.libraries)
    assert set(step.libraries) <= there
    by_tasks = [getattr(tasks.of(task), "LIBRARIES", {}) for task in tasks.names()]
    assert all(any(name in said.get(of, ()) for said in by_tasks) for of, name in SAID_BY_TASKS)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
