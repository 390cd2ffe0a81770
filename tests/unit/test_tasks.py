"""Tasks: what is trained is what is loaded, on encoders and on decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from regraft import recipe as recipes
from regraft import sources, tasks
from regraft.errors import BadInput
from regraft.parts import Recipe
from tests import champions

TASK = tasks.of("text-classification")


def declared(folder: Path, base: Path, adapter: str = "{r: 4}") -> Recipe:
    folder.mkdir(exist_ok=True)
    file = champions.recipe_file(folder, base)
    file.write_text(file.read_text().replace("{r: 4}", adapter))
    return recipes.load(file)


@pytest.fixture(scope="session")
def decoder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama with 2 layers and random weights, whose tokenizer has no padding token."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.cls_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def disturb(model: Any) -> None:
    """Gives adapter and head weights that matter, as training would."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)


def one_by_one(model: Any, tokenizer: Any, texts: list[str], max_length: int) -> np.ndarray[Any, Any]:
    """Logits without any padding: what batches must agree with."""
    model.eval()
    with torch.inference_mode():
        encoded = [tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt") for text in texts]
        return np.concatenate([model(input_ids=e["input_ids"]).logits.numpy() for e in encoded])


@pytest.mark.parametrize("kind", ["tiny_base", "decoder"])
def test_a_loaded_model_answers_as_the_trained_one(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    recipe = declared(tmp_path / "recipe", request.getfixturevalue(kind))
    model, tokenizer = TASK.for_training(recipe, tmp_path / "base")
    disturb(model)
    model.save_pretrained(tmp_path / "model/adapter")
    tokenizer.save_pretrained(tmp_path / "model/tokenizer")
    loaded = TASK.load(recipe, tmp_path / "model", tmp_path / "base")
    expected = one_by_one(model, tokenizer, champions.TEXTS, recipe.training.max_length)
    assert np.ptp(expected) > 0.1, "all answers are alike, so this test shows nothing"
    np.testing.assert_allclose(TASK.logits(loaded, champions.TEXTS, size=8), expected, atol=1e-4)


def test_only_adapter_and_head_are_trained(tiny_base: Path, tmp_path: Path) -> None:
    model, _ = TASK.for_training(declared(tmp_path, tiny_base), tmp_path / "base")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("classifier" in name for name in trained)
    assert all("lora_" in name or "classifier" in name for name in trained)


def test_top_layers_leaves_the_layers_below_alone(tiny_base: Path, tmp_path: Path) -> None:
    model, _ = TASK.for_training(declared(tmp_path, tiny_base, "{r: 4, top_layers: 1}"), tmp_path / "base")
    layers = {name.split(".layer.")[1][0] for name, _ in model.named_parameters() if "lora_" in name}
    assert layers == {"1"}


def test_one_seed_gives_one_fresh_adapter_and_head(tiny_base: Path, tmp_path: Path) -> None:
    recipe = declared(tmp_path, tiny_base)
    (one, _), (two, _) = (TASK.for_training(recipe, tmp_path / "base") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_what_lies_beyond_max_length_does_not_count(tiny_base: Path, tmp_path: Path) -> None:
    recipe = declared(tmp_path / "recipe", tiny_base)
    model, tokenizer = TASK.for_training(recipe, tmp_path / "base")
    disturb(model)
    model.save_pretrained(tmp_path / "model/adapter")
    tokenizer.save_pretrained(tmp_path / "model/tokenizer")
    loaded = TASK.load(recipe, tmp_path / "model", tmp_path / "base")
    beginning = "good film " * 20
    same = TASK.logits(loaded, [beginning + "awful " * 30, beginning + "bright " * 30])
    # two rows of one batch go through other lanes of the processor, and need not be equal to the bit
    np.testing.assert_allclose(same[0], same[1], rtol=0, atol=1e-5)
    other = TASK.logits(loaded, ["awful " + beginning])
    assert np.abs(other[0] - same[0]).max() > 1e-3, "the words alone change nothing, so this test shows nothing"


def test_a_gguf_base_model_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/small.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput) as raised:
        TASK.for_training(declared(tmp_path / "recipe", tmp_path / "base"), tmp_path / "scratch")
    error = raised.value
    assert "small.Q4_1.gguf is read by the package gguf, which is not installed" in error.what
    assert error.where == str(tmp_path / "base")
    assert "pip install 'regraft[gguf]'" in (error.next or "")
    (tmp_path / "base/model.safetensors").write_bytes(b"")
    assert sources.pretrained(str(tmp_path / "base"), None, tmp_path) == (str(tmp_path / "base"), {})
