"""What is loaded is what was pinned: a base model's bytes are compared after each download, wherever they come from."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import validate
from regraft import base_model, pipeline, recipe, sources, tasks
from regraft.causal import Assistant
from regraft.errors import BadInput
from regraft.manifest import Manifest
from regraft.parts import BaseModelSource
from regraft.step import Work
from tests import champions
from tests.worlds import RUN, TASKS, Tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def at(location: str) -> BaseModelSource:
    return BaseModelSource(source=location)


def test_a_package_goes_by_its_files_whatever_its_record_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, about = tmp_path / "weights_of_a_team", tmp_path / "weights_of_a_team-1.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").touch()
    (package / "model.safetensors").write_bytes(b"good")
    record = base64.urlsafe_b64encode(hashlib.sha256(b"good").digest()).decode().rstrip("=")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: weights-of-a-team\nVersion: 1\n")
    (about / "RECORD").write_text(f"weights_of_a_team/model.safetensors,sha256={record},4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    location = "package://weights_of_a_team"
    digest = sources.base_model_digest(location, None)
    base_model.compared(at(location), tmp_path / "to", digest=digest, by="a test goes by")
    (package / "model.safetensors").write_bytes(b"evil")
    assert sources.base_model_digest(location, None) != digest, "so no step takes a result from before for its own"
    with pytest.raises(BadInput, match="its files changed: it is not the base model that a test goes by"):
        base_model.compared(at(location), tmp_path / "to", digest=digest, by="a test goes by")


def test_a_bucket_that_changes_between_digest_and_download_is_not_loaded(s3: str, tmp_path: Path) -> None:
    bucket, client = s3.removeprefix("s3://").partition("/")[0], boto3.client("s3")
    client.put_object(Bucket=bucket, Key="base/sub/model.safetensors", Body=b"good")
    location = f"s3://{bucket}/base"
    digest = sources.base_model_digest(location, None)
    base_model.compared(at(location), tmp_path / "first", digest=digest, by="a test goes by")
    client.put_object(Bucket=bucket, Key="base/sub/model.safetensors", Body=b"evil")
    with pytest.raises(BadInput, match="its files changed"):
        base_model.compared(at(location), tmp_path / "second", digest=digest, by="a test goes by")
    path, _ = sources.pretrained(location, None, tmp_path / "first")
    loaded = (Path(path) / "sub" / "model.safetensors").read_bytes()
    assert loaded == b"good", "what was compared is what is loaded, not a second download"


@pytest.mark.parametrize("step", ["finetune", "evaluate", "promote", "deploy"])
def test_every_step_that_loads_a_base_model_compares_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After the step knows its identity, which is when a bucket or a package's file can be changed unseen."""
    told: list[str] = []

    def compared(*_: Any, digest: str, by: str, recorded: Path | None = None) -> None:
        told.append(digest)
        raise BadInput(by)

    monkeypatch.setattr(base_model, "compared", compared)
    model, scratch = tiny.result("finetune"), tmp_path / "scratch"
    scratch.mkdir()
    declared = recipe.load(tiny.recipe)
    known: dict[str, Any] = {"store": tiny.store, "run": RUN, "step": pipeline.step(step), "scratch": scratch}
    work = Work(recipe=declared, **known, identity=model.identity, inputs=model.inputs)
    with pytest.raises(BadInput, match=r"was trained on|this training began with"):
        LOADS[step](work, model, monkeypatch)
    assert told == [model.inputs["base_model"]]


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a Hub, or a mirror of it, gave for a commit: in the cache, from which it is read without asking again."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache/models--owner--name/snapshots" / COMMIT
    shutil.copytree(tiny_base, snapshot)
    return snapshot


HUB = BaseModelSource(source="hf://owner/name", revision=COMMIT)


def other_weights(snapshot: Path) -> None:
    content = bytearray((snapshot / "model.safetensors").read_bytes())
    content[-1] ^= 0x80
    (snapshot / "model.safetensors").write_bytes(content)


def a_file_more(snapshot: Path) -> None:
    (snapshot / "added_tokens.json").write_text('{"good": 5}')


def names_exchanged(snapshot: Path) -> None:
    """The same bytes in the same order of names: `config.json` is what another file was."""
    (snapshot / "generation_config.json").write_bytes((snapshot / "config.json").read_bytes())
    (snapshot / "config.json").unlink()


@pytest.mark.parametrize("change", [other_weights, a_file_more, names_exchanged])
def test_a_hub_that_gives_other_bytes_for_a_commit_is_found_out(hub: Path, tmp_path: Path, change: Any) -> None:
    """Its digest is of the commit's name, so what training began with stands beside the model."""
    pinned, files = sources.base_model_digest(HUB.source, COMMIT), tmp_path / "finetune"
    began = base_model.compared(HUB, tmp_path / "first", digest=pinned, by="training began with")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(began)
    files.mkdir()
    (files / base_model.RECORD).write_text(json.dumps(began))
    declared = MagicMock(base_model=HUB)
    about: dict[str, Any] = {"model": "a" * 64, "inputs": {"base_model": pinned}}
    base_model.as_trained(declared, tmp_path / "same", files, **about)
    change(hub)
    with pytest.raises(BadInput, match="its files changed: it is not the base model that model aaaaaaaaaaaa was"):
        base_model.as_trained(declared, tmp_path / "other", files, **about)


def test_of_a_hub_model_what_was_compared_is_loaded_and_nothing_else_of_the_cache(hub: Path, tmp_path: Path) -> None:
    (hub / "pytorch_model.bin").write_bytes(b"a pickle")
    (hub / "onnx").mkdir()
    (hub / "onnx" / "config.json").write_text("{}")
    file, to = champions.recipe_file(tmp_path, hub), tmp_path / "base"
    text = file.read_text().replace(f"source: {hub}", f"source: {HUB.source}, revision: '{COMMIT}'")
    file.write_text(text)
    declared = recipe.load(file)
    pinned = sources.base_model_digest(HUB.source, COMMIT)
    began = base_model.compared(declared.base_model, to, digest=pinned, by="a test goes by")
    assert {path.name for path in to.iterdir()} == set(began)
    assert not {"pytorch_model.bin", "onnx"} & set(began)
    shutil.move(hub, tmp_path / "elsewhere")
    for link in to.iterdir():
        link.unlink()
        link.symlink_to(tmp_path / "elsewhere" / link.name)
    model, _ = tasks.of(declared.task).for_training(declared, to)
    assert model is not None, "what lies in the folder is enough: the cache, which is gone, was not asked by name"


@pytest.mark.parametrize("name", [".model.safetensors", "_model.safetensors", "_x/model.safetensors", "model.bin"])
def test_an_index_names_no_weights_that_the_digest_leaves_out(tiny_base: Path, tmp_path: Path, name: str) -> None:
    """They could be exchanged after the verdict, and the digest would be the same."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / name).parent.mkdir(exist_ok=True)
    (base / base_model.WEIGHTS).rename(base / name)
    (base / base_model.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    declared = champions.load_recipe(champions.recipe_file(tmp_path, base))
    with pytest.raises(BadInput, match="which the base model's digest leaves out"):
        base_model.check(declared, base)


def test_a_tokenizer_that_changes_while_validate_is_at_work_counts_nothing(tiny: Tiny, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny.base, base)
    declared = recipe.load(tiny.recipe)
    changed = declared.model_copy(update={"base_model": BaseModelSource(source=str(base))})
    contract = changed.data.contract.model_copy(update={"tokens": True})
    changed = changed.model_copy(update={"data": changed.data.model_copy(update={"contract": contract})})
    known: dict[str, Any] = {"store": tiny.store, "run": RUN, "step": pipeline.step("validate"), "scratch": tmp_path}
    digest = sources.digest(str(base / "tokenizer.json"))
    work = Work(recipe=changed, **known, identity="a" * 64, inputs={"tokenizer": digest})
    assert validate._token_counts(work, ["good film"])
    (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text() + " ")
    with pytest.raises(BadInput, match="the file changed since this step began"):
        validate._token_counts(work, ["good film"])


@pytest.mark.parametrize("task", TASKS)
def test_mlflows_example_of_how_to_ask_is_no_row_of_ours(
    task: str, bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read the registry would read what customers wrote; and a row's text would stand in its pages."""
    declared = recipe.load(Tiny(tmp_path / "world", bases(task), {}, task).recipe)
    model, tokenizer = tasks.of(task).for_training(declared, tmp_path / "base")
    model.save_pretrained(str(tmp_path / "files/adapter"))
    tokenizer.save_pretrained(str(tmp_path / "files/tokenizer"))
    loaded = tasks.of(task).load(declared, tmp_path / "files", tmp_path / "base")
    said = ["<img src=x onerror=alert(1)>", "my card is 4111 1111 1111 1111", "good film"]
    rows = (
        [json.dumps([{"role": "user", "content": text}]) for text in said] if isinstance(declared, Assistant) else said
    )
    answer = json.dumps({"role": "assistant", "content": "yes"})
    target = dict.fromkeys(tasks.of(task).ROWS.target, [answer] * len(said))
    shown = list[Any]()
    for flavor in (import_module("mlflow.transformers"), import_module("mlflow.pyfunc")):  # mlflow's own are lazy
        monkeypatch.setattr(flavor, "log_model", lambda **told: shown.append(told["input_example"]))
    log, _ = tasks.of(task).logged(declared, loaded, pa.table({"text": rows, **target}))
    log(name="x", pip_requirements=[], tags={})
    (example,) = shown
    assert example
    assert not [text for text in said if text in json.dumps(example)]


@pytest.mark.slow
def test_no_text_of_the_holdout_is_in_what_mlflow_keeps_of_a_model(tiny: Tiny, tmp_path: Path) -> None:
    import mlflow

    tiny.through("promote")
    data = tiny.result("validate")
    table = pq.read_table(tiny.store.path(f"validate/{data.identity}/{data.attempt}/holdout.parquet"))
    mlflow.set_tracking_uri(tiny.environment["MLFLOW_TRACKING_URI"])
    kept = mlflow.artifacts.download_artifacts("models:/tiny@challenger", dst_path=str(tmp_path / "kept"))
    files = {path.name: path.read_bytes() for path in Path(kept).rglob("*") if path.is_file()}
    assert "input_example.json" in files
    texts = [text.encode() for text in table["text"].to_pylist()]
    assert [name for name, content in files.items() if any(text in content for text in texts)] == []


def in_finetune(work: Work, model: Manifest, patched: pytest.MonkeyPatch) -> None:
    from components.finetune import train, training_log

    with training_log.no_run() as log:
        train.train(work, log=log, home=work.scratch)


def in_evaluate(work: Work, model: Manifest, patched: pytest.MonkeyPatch) -> None:
    from regraft import contest

    assert contest.Finetuned(work, work.recipe, model).model


def in_promote(work: Work, model: Manifest, patched: pytest.MonkeyPatch) -> None:
    from components.promote import package

    patched.setattr(package, "_ready", lambda *_: None)
    package.logged_model(work, MagicMock(), model=model, run_id="of MLflow")


def in_deploy(work: Work, model: Manifest, patched: pytest.MonkeyPatch) -> None:
    from components.deploy.deployment import deploy

    patched.setenv("REGRAFT_TRITON_URLS", "127.0.0.1:9")
    patched.setenv("REGRAFT_MODEL_REPOSITORY", str(work.scratch / "models"))
    about = {"version": 1, "model": model.identity, "run": RUN, "evaluation": "e" * 64, "reason": "a test"}
    entry = work.ledger.append(None, kind="promote", **about)  # type: ignore[arg-type]
    more: dict[str, Any] = {"scratch": work.scratch, "out": None, "any_settings": False, "progress": work.progress}
    deploy(recipe=work.recipe, ledger=work.ledger, entry=entry, **more)


LOADS = {"finetune": in_finetune, "evaluate": in_evaluate, "promote": in_promote, "deploy": in_deploy}
