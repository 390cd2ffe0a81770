"""A recipe that does not hold, or cannot become a DAG, is named in the import errors and takes no other along."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.airflow.conftest import load
from tests.airflow.laptop import ROOT, WEEKLY, Laptop


def test_broken_recipes_are_one_error_with_every_line_and_the_others_stay(laptop: Laptop) -> None:
    laptop.recipe("good")
    laptop.recipe("bad", "wat: 1\n")
    (laptop.recipes / "twin.yaml").write_text(WEEKLY.replace("name: reviews", "name: good"))
    made = load("retrain.py")
    assert "good" in made
    assert "bad" not in made
    with pytest.raises(Exception, match="recipes that do not hold: 2") as caught:
        load("broken_recipes.py")
    assert "wat: unknown key" in str(caught.value)
    assert "another recipe here is called 'good' too" in str(caught.value)


def lands(asset: str, *, watch: bool = False) -> str:
    """A recipe that waits for an asset."""
    return WEEKLY[: WEEKLY.index("schedule:")] + f"schedule: {{asset: '{asset}', watch: {str(watch).lower()}}}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (lands("${NO_SUCH_BUCKET}/new", watch=True), "recipe nope cannot become a DAG.*NO_SUCH_BUCKET is not set"),
        (lands("${AIRFLOW__CORE__FERNET_KEY}", watch=True), "may not name the variable AIRFLOW__CORE__FERNET_KEY"),
        (lands("http://169.254.169.254/x", watch=True), "recipes may not name http://"),
        (lands("${REGRAFT_DATA}/x"), "recipe nope cannot become a DAG: .*has a variable, .*go by their names"),
        (lands("airflow://bucket/x"), "Airflow keeps the scheme"),
        (
            WEEKLY + "resources: {finetune: {gpu: 9}}\n",
            "finetune.gpu: 9; whoever runs regraft allows at most 8",
        ),
        (WEEKLY + f"owner: {'x' * 101}\n", "owner: .*at most 100"),
        (WEEKLY.replace("0 3 * * 1", "0 0 30 2 *"), "names no date that exists"),
        (WEEKLY + 'description: "a\\0b"\n', "control character"),
        (b"name: nope\nowner: J\xf6rg\n", "line 2: not UTF-8"),
    ],
    ids=range(10),
)
def test_a_recipe_that_can_be_no_dag_is_named_and_the_others_stay(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, text: str | bytes, complaint: str
) -> None:
    monkeypatch.setenv("REGRAFT_VARIABLES", "NO_SUCH_BUCKET")
    monkeypatch.setenv("REGRAFT_CEILINGS", "gpu=8")
    laptop.recipe("good")
    laptop.recipe("later")
    content = text if isinstance(text, bytes) else text.replace("name: reviews", "name: nope").encode()
    (laptop.recipes / "nope.yaml").write_bytes(content)
    made = load("retrain.py")
    assert {"good", "later"} <= set(made)
    assert "nope" not in made
    with pytest.raises(Exception, match=r"recipes that do not hold: 1; the others are not affected") as caught:
        load("broken_recipes.py")
    assert re.search(complaint, str(caught.value))
    assert "nope.yaml" in str(caught.value)


def test_an_asset_has_one_name_in_all_recipes(laptop: Laptop) -> None:
    laptop.recipe("one", text=lands("s3://bucket/x"))
    laptop.recipe("same", text=lands("s3://bucket/x"))
    laptop.recipe("two", text=lands("s3://bucket/x/"))
    assert {"one", "same"} == {"one", "same", "two"} & set(load("retrain.py"))
    with pytest.raises(Exception, match=r"'s3://bucket/x/' is the asset of recipe one too, .*\n +next: +write it"):
        load("broken_recipes.py")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGRAFT_RETRY_SECONDS", "soon"),
        ("REGRAFT_RETRY_SECONDS", "inf"),
        ("REGRAFT_WATCH_SECONDS", "-1"),
        ("REGRAFT_DOCTOR_CRON", "0 0 30 2 *"),
    ],
)
def test_a_setting_that_is_wrong_is_named(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    for file in ("retrain.py", "doctor.py"):
        with pytest.raises(Exception, match=rf"^{name}: .*\n +next: +export {name}="):
            load(file)


def test_a_file_that_cannot_be_read_is_named_and_the_others_stay(laptop: Laptop) -> None:
    laptop.recipe("good")
    (laptop.recipes / "gone.yaml").symlink_to(laptop.folder / "nowhere.yaml")
    assert "good" in load("retrain.py")
    with pytest.raises(Exception, match=r"gone\.yaml"):
        load("broken_recipes.py")


def test_a_recipe_that_is_left_out_for_its_name_is_said(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.runners import airflow

    said: list[str] = []
    monkeypatch.setattr(airflow.log, "warning", lambda text, *words: said.append(text % words))
    text = laptop.recipe("good")
    for name in ("_draft.yaml", ".hidden.YML", "_old/one.yaml", "_notes.md", "..2026_11_28/good.yaml"):
        (laptop.recipes / name).parent.mkdir(exist_ok=True)
        (laptop.recipes / name).write_text(text)
    for file in ("retrain.py", "broken_recipes.py", "doctor.py"):
        load(file)
        assert said.pop().endswith("a part of the path starts with . or _: .hidden.YML, _draft.yaml, _old/one.yaml")
        assert not said


def test_an_asset_goes_by_the_name_that_the_recipe_writes(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    monkeypatch.setenv("REGRAFT_DATA", "s3://canary-of-the-operator")
    laptop.recipe("good", text=lands("${REGRAFT_DATA}/new", watch=True))
    stored = json.dumps(DagSerialization.to_dict(load("retrain.py")["good"]))
    assert "${REGRAFT_DATA}/new" in stored
    assert "canary" not in stored


@pytest.mark.parametrize("where", ["dag", "serialize_dag", "from_dict", "next_dagrun_info"])
def test_whatever_airflow_raises_for_one_dag_takes_no_other(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also what would be raised only later, when Airflow stores the DAG and asks when it is due."""
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import DagSerialization

    from regraft.runners import airflow

    owner = {"dag": airflow, "next_dagrun_info": SerializedDAG}.get(where, DagSerialization)
    real = getattr(owner, where)

    def fails(one: Any, *arguments: Any, **named: Any) -> Any:
        if "unlucky" in (getattr(one, "name", ""), getattr(one, "dag_id", "")) or "'unlucky'" in repr(one)[:3000]:
            raise OverflowError("days=1000000000; must have magnitude <= 999999999")
        return real(one, *arguments, **named)

    monkeypatch.setattr(owner, where, fails)
    laptop.recipe("good")
    laptop.recipe("unlucky")
    made = load("retrain.py")
    assert "good" in made
    assert "unlucky" not in made
    with pytest.raises(Exception, match="recipe unlucky cannot become a DAG: OverflowError: days=1000000000"):
        load("broken_recipes.py")


def test_airflow_finds_the_others_beside_the_one_error(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("REGRAFT_VARIABLES", "NO_SUCH_BUCKET")
    laptop.recipe("good")
    laptop.recipe("nope", text=lands("${NO_SUCH_BUCKET}/new", watch=True))
    bag = DagBag(str(ROOT / "dags"))
    assert set(bag.dags) == {"good", "regraft_doctor"}
    (error,) = bag.import_errors.values()
    assert "recipe nope cannot become a DAG" in error
    assert "NO_SUCH_BUCKET is not set" in error
