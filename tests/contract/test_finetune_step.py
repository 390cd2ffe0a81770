"""finetune through its command line, on a tiny model, with a real MLflow server."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from safetensors import safe_open

from components.finetune.train import order
from regraft import encoders, recipe, tasks
from regraft.parts import Training
from tests.worlds import LATER, RUN, Tiny
from tests.worlds.text_classification import rows


def test_it_puts_out_an_adapter_a_tokenizer_a_label_map_and_a_card(tiny: Tiny) -> None:
    files = set(tiny.result("finetune").outputs)
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md"} <= files
    assert {"tokenizer/tokenizer.json", "labels.json", "training.json", "train_digests.parquet"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_the_card_has_a_yaml_head_and_names_no_path_of_this_machine(tiny: Tiny, tmp_path: Path) -> None:
    manifest = tiny.result("finetune")
    folder = tiny.store.fetch(f"finetune/{manifest.identity}", manifest, tmp_path / "model")
    card = (folder / "adapter/README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert head["pipeline_tag"] == "text-classification"
    assert head["model-index"][0]["results"][0]["metrics"]
    config = (folder / "adapter/adapter_config.json").read_text()
    assert str(tmp_path) not in card + config + (folder / "training.json").read_text()


def test_the_head_is_saved_with_the_adapter_and_the_model_has_learned(tiny: Tiny, tmp_path: Path) -> None:
    manifest = tiny.result("finetune")
    folder = tiny.store.fetch(f"finetune/{manifest.identity}", manifest, tmp_path / "model")
    with safe_open(folder / "adapter/adapter_model.safetensors", "pt") as weights:
        assert any("classifier" in name for name in weights.keys())  # noqa: SIM118  not a mapping
    declared = recipe.load(tiny.recipe)
    task = tasks.of(declared.task)
    fresh = rows(200, seed=99)
    answers = task.logits(task.load(declared, folder, tmp_path / "base"), [row["text"] for row in fresh])
    labels = [declared.data.labels.index(row["label"]) for row in fresh]
    assert task.scored(labels, answers)["accuracy"] > 0.65, "by chance it is 0.5, give or take 0.035"


def test_mlflow_has_parameters_and_the_curves_of_loss_and_learning_rate(tiny: Tiny) -> None:
    client = mlflow.MlflowClient(tiny.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tiny")
    identity = tiny.result("finetune").identity
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`regraft.identity` = '{identity}'")
    assert run.data.params["training.seed"] == "42"
    assert run.data.params["digest.train"] == tiny.result("finetune").inputs["train"]
    for name in ("loss", "learning_rate", "eval_f1_macro"):
        assert len(client.get_metric_history(run.info.run_id, name)) > 1
    assert run.info.status == "FINISHED"


def test_what_it_foresaw_stands_beside_what_came(tiny: Tiny) -> None:
    manifest = tiny.result("finetune")
    names = {"memory_estimated_bytes", "memory_peak_bytes", "steps_estimated_seconds", "steps_seconds"}
    assert names <= set(manifest.measured)
    assert 0.5 < manifest.measured["memory_estimated_bytes"] / manifest.measured["memory_peak_bytes"] < 2
    client = mlflow.MlflowClient(tiny.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`regraft.identity` = '{manifest.identity}'")
    assert names <= set(run.data.metrics)
    assert str(manifest.foreseen).endswith(" s for its steps")


def test_without_the_memory_that_it_will_take_it_does_not_begin(tiny: Tiny) -> None:
    tiny.recipe.write_text(tiny.recipe.read_text().replace("finetune: {cpu: 1}", "finetune: {cpu: 1, memory: 64Mi}"))
    code, output = tiny.step("finetune", REGRAFT_FORCE="1")
    assert code == 20, output
    assert "resources.finetune.memory: training will take about" in output
    assert "step 1/" not in output


def test_without_mlflow_it_says_so_before_it_trains(tiny: Tiny) -> None:
    tiny.declare(epochs=5)
    code, output = tiny.step("finetune", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 75
    assert "the MLflow server does not answer" in output
    assert "step 1/" not in output


def test_an_unknown_base_model_is_one_clear_error(tiny: Tiny) -> None:
    tiny.recipe.write_text(tiny.recipe.read_text().replace(str(tiny.base), "package://no_such_package/model"))
    code, output = tiny.step("finetune")
    assert code == 20
    assert "no installed package is imported as 'no_such_package'" in output
    assert "Traceback" not in output


def test_the_adapter_names_its_base_as_the_recipe_does_and_is_saved_without_asking_the_hub(tiny: Tiny) -> None:
    named = "${REGRAFT_BASE_MODEL:-package://our_models/base}"
    tiny.declare(epochs=1)
    tiny.recipe.write_text(tiny.recipe.read_text().replace(str(tiny.base), f'"{named}"'))
    code, output = tiny.step("finetune", REGRAFT_BASE_MODEL=str(tiny.base))
    assert code == 0, output
    assert "Could not find a config file" not in output  # PEFT, which looks for the base under the name that it has
    manifest = tiny.result("finetune")
    config = tiny.store.read(f"finetune/{manifest.identity}/{manifest.attempt}/adapter/adapter_config.json")
    assert json.loads(config)["base_model_name_or_path"] == named


def test_a_base_model_without_safetensors_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    tiny.recipe.write_text(tiny.recipe.read_text().replace(str(tiny.base), str(pickled)))
    code, output = tiny.step("finetune")
    assert code == 20
    assert "pickled weights are never loaded" in output


def test_a_warm_start_begins_with_the_champions_weights(tiny: Tiny) -> None:
    evaluation, model = tiny.result("evaluate"), tiny.result("finetune")
    tiny.ledger.append(
        None,
        kind="promote",
        version=1,
        model=model.identity,
        run="2026-11-23T03-00",
        evaluation=evaluation.identity,
        reason="first",
    )
    text = tiny.recipe.read_text().replace("precision: fp32", "precision: fp32, warm_start: true", 1)
    assert "learning_rate: 1e-2" in text
    tiny.recipe.write_text(text.replace("learning_rate: 1e-2", "learning_rate: 1e-12"))  # it stays where it begins
    tiny.through("validate", "finetune", run=LATER)
    manifest = tiny.result("finetune", LATER)
    assert manifest.inputs["warm_start"] == model.identity
    begun = json.loads(_training(tiny, manifest.identity))[0]["eval_f1_macro"]
    assert begun == pytest.approx(model.metrics["dev"]["f1_macro"], abs=0.02)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ("r: 4, alpha: 64", "adapter.alpha"),
        ("r: 4, rank_stabilized: true", "adapter.rank_stabilized"),
        ("r: 4, top_layers: 1", "adapter.top_layers"),
    ],
)
def test_a_warm_start_from_another_kind_of_adapter_is_refused_and_named(tiny: Tiny, now: str, named: str) -> None:
    evaluation, model = tiny.result("evaluate"), tiny.result("finetune")
    about = {"model": model.identity, "run": RUN, "evaluation": evaluation.identity}
    tiny.ledger.append(None, kind="promote", version=1, reason="first", **about)
    declared = tiny.recipe.read_text().replace("precision: fp32", "precision: fp32, warm_start: true", 1)
    tiny.recipe.write_text(declared.replace("adapter: {r: 4}", f"adapter: {{{now}}}"))
    tiny.through("validate", run=LATER)
    code, said = tiny.step("finetune", run=LATER)
    assert code == 20, said
    assert re.search(rf"the champion's adapter has another .*{named}", said)
    assert "set warm_start: false" in said


@pytest.mark.parametrize("kind", ["dora: true", "rank_stabilized: true"])
def test_each_kind_of_lora_is_merged_to_what_it_learned(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    tiny.recipe.write_text(tiny.recipe.read_text().replace("adapter: {r: 4}", f"adapter: {{r: 4, {kind}}}"))
    declared, labels = recipe.load(tiny.recipe), ["negative", "positive"]
    model, tokenizer = encoders.for_training(declared, tmp_path, head="SequenceClassification", outputs=labels)
    with torch.no_grad():
        torch.manual_seed(1)
        for name, learned in model.named_parameters():
            if "lora_" in name:  # also the lengths of DoRA
                learned.add_(torch.randn_like(learned) * 0.3)
    model.save_pretrained(str(tmp_path / "model" / "adapter"))
    tokenizer.save_pretrained(str(tmp_path / "model" / "tokenizer"))
    merged = encoders.load(declared, tmp_path / "model", tmp_path, head="SequenceClassification", outputs=labels).model
    batch = tokenizer(["a good film", "a dull one"], return_tensors="pt", padding=True)
    with torch.no_grad():
        learned, alike = model.eval()(**batch).logits, merged(**batch).logits
        with model.disable_adapter():
            base = model(**batch).logits
    assert torch.allclose(learned, alike, atol=1e-5)
    assert (learned - base).abs().max() > 100 * (learned - alike).abs().max()
    config = model.peft_config["default"]
    assert (config.use_dora, config.use_rslora) == (kind.startswith("dora"), kind.startswith("rank"))


def _training(tiny: Tiny, identity: str) -> str:
    manifest = tiny.store.manifest(f"finetune/{identity}")
    assert manifest is not None
    return tiny.store.read(f"finetune/{identity}/{manifest.attempt}/training.json").decode()


@pytest.mark.parametrize("epochs", [0.5, 1, 2.5])
def test_the_order_of_rows_holds_each_row_once_an_epoch_and_like_lengths_together(epochs: float) -> None:
    lengths = [(7 * i) % 61 + 3 for i in range(400)]
    training = Training(epochs=epochs, batch_size=16)
    positions = order(lengths, training=training)
    assert positions == order(lengths, training=training)
    assert len(positions) == round(400 * epochs)
    if epochs >= 1:
        assert sorted(positions[:400]) == list(range(400))
    assert _padding(positions, lengths) < _padding(list(range(400)), lengths) / 2


def _padding(positions: list[int], lengths: list[int]) -> float:
    """Share of the tokens in batches of 16 that is padding."""
    batches = [positions[i : i + 16] for i in range(0, len(positions) - 16, 16)]
    width = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths[row] for batch in batches for row in batch) / width


def test_stopped_by_sigterm_or_sigkill_it_resumes_to_the_same_bytes(tiny: Tiny) -> None:
    """Two SIGKILLs after a checkpoint and a SIGTERM at a random place, then to the end: the digests are equal."""
    undisturbed = tiny.result("finetune")
    tiny.store.clear(f"finetune/{undisturbed.identity}")
    for sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = tiny.start("finetune")
        before = _checkpoints(tiny, undisturbed.identity)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if sent == signal.SIGKILL and _checkpoints(tiny, undisturbed.identity) - before:
                break
            if sent == signal.SIGTERM and process.stdout and "step" in process.stdout.readline():
                break
            time.sleep(0.005)
        if process.poll() is not None:
            break  # it was quicker than the signal: the end has been reached
        os.kill(process.pid, sent)
        output, _ = process.communicate(timeout=60)
        if sent == signal.SIGTERM:
            assert process.returncode in (75, 0), output
    tiny.through("finetune")
    resumed = tiny.result("finetune")
    assert resumed.identity == undisturbed.identity
    assert resumed.digest == undisturbed.digest
    assert not _checkpoints(tiny, undisturbed.identity), "checkpoints have served and are gone"


def _checkpoints(tiny: Tiny, identity: str) -> set[str]:
    prefix = f"finetune/{identity}/checkpoints"
    return {name for name in tiny.store.names(prefix) if tiny.store.manifest(f"{prefix}/{name}")}
