"""Each task has a page, whose recipes are recipes and whose commands lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regraft import recipe, tasks

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/tasks").glob("*.md"))


def blocks(page: Path, kind: str) -> list[str]:
    """What stands between fences of a kind."""
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)


def test_each_task_has_a_page_that_the_readme_leads_to() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.stem for page in PAGES] == sorted(tasks.names())
    assert [page.stem for page in PAGES if f"[{page.stem}](docs/tasks/{page.name})" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_own_recipe_is_one_of_that_task(page: Path) -> None:
    whole = [text for text in blocks(page, "yaml") if text.startswith("name:")]
    assert whole
    for text in whole:
        assert recipe.parse(text.replace("FULL-40-DIGIT-COMMIT", "0a" * 20), where=str(page)).task == page.stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_first_command_runs_a_recipe_of_that_task(page: Path) -> None:
    (file,) = re.findall(r"^make run RECIPE=(\S+)$", blocks(page, "console")[0], re.MULTILINE)
    assert recipe.load(ROOT / file).task == page.stem
