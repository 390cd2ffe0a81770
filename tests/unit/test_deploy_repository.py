"""The model repository on disk and the choice of versions, without a Triton server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.deploy import export, rollout, tritonserver
from components.deploy.repository import Repository
from regraft import recipe as recipes
from regraft.errors import BadInput, NotFound, Temporary
from regraft.ledger import Ledger
from regraft.store import Store


@pytest.fixture
def recipe() -> recipes.Recipe:
    return recipes.load("dags/recipes/movie-sentiment.yaml")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models", "tiny")


def built(folder: Path, *, model: str) -> Path:
    folder.mkdir()
    (folder / "serving.json").write_text(json.dumps({"model": model}))
    return folder


def test_a_published_version_appears_whole_and_keeps_its_bytes(repository: Repository, tmp_path: Path) -> None:
    assert repository.publish(built(tmp_path / "one", model="m1"), 7) is None
    assert repository.versions() == [7]
    assert repository.serving(7) == {"model": "m1"}


def test_replacing_a_version_can_be_undone(repository: Repository, tmp_path: Path) -> None:
    repository.publish(built(tmp_path / "one", model="m1"), 7)
    replaced = repository.publish(built(tmp_path / "two", model="m2"), 7)
    assert replaced is not None
    repository.put_back(replaced, 7)
    repository.clean()
    assert repository.serving(7) == {"model": "m1"}
    assert [p.name for p in repository.folder.iterdir()] == ["7"]


def test_the_config_names_the_versions_that_are_served(repository: Repository, recipe: recipes.Recipe) -> None:
    assert repository.served() == []
    repository.configure(export.config(recipe, [12, 9]))
    assert repository.served() == [9, 12]


def test_a_second_deploy_waits_for_the_first(repository: Repository) -> None:
    with (
        repository.lock(),
        pytest.raises(Temporary, match="another deploy"),
        Repository(repository.root, repository.name).lock(seconds=0.1),
    ):
        pass


def test_another_model_does_not_wait(repository: Repository) -> None:
    with repository.lock(), Repository(repository.root, "other").lock(seconds=0.1):
        pass


def promote(store: Store, version: int, *, kind: str = "promote") -> None:
    ledger = Ledger(store)
    ledger.append(
        ledger.head(), kind=kind, version=version, model=f"m{version}", run="r", evaluation="e", reason="test"
    )  # type: ignore[arg-type]


def test_the_champion_is_the_highest_version_served(repository: Repository, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), "tiny")
    ledger = Ledger(store)
    for version in (1, 2, 3):
        promote(store, version)
        repository.publish(built(tmp_path / f"built-{version}", model=f"m{version}"), version)
    assert rollout.wanted(ledger, repository, rollout.champion(ledger)) == [2, 3]
    promote(store, 1, kind="rollback")
    assert rollout.wanted(ledger, repository, rollout.champion(ledger)) == [1], "2 and 3 would answer in its place"


def test_a_previous_champion_that_was_never_published_is_not_served(repository: Repository, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), "tiny")
    promote(store, 1)
    promote(store, 2)
    ledger = Ledger(store)
    repository.publish(built(tmp_path / "one", model="of another registry"), 1)
    assert rollout.wanted(ledger, repository, rollout.champion(ledger)) == [2]


def test_nothing_is_deployed_before_the_first_promotion(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no champion"):
        rollout.champion(Ledger(Store(str(tmp_path / "store"), "tiny")))


@pytest.mark.parametrize("missing", ["REGRAFT_TRITON_URLS", "REGRAFT_MODEL_REPOSITORY"])
def test_a_missing_endpoint_is_named(missing: str, recipe: recipes.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:1")
    monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", "models")
    monkeypatch.delenv(missing)
    with pytest.raises(BadInput, match=missing):
        rollout.target(recipe)


def test_a_folder_that_is_no_wheel_is_refused_with_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        tritonserver.lay_out(wheel=tmp_path, to=tmp_path / "server")
    assert "uv pip install" in str(caught.value)
    assert not (tmp_path / "server").exists()
