"""Base models as people have them: what works is trained, anything else is refused before and says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from regraft import base_model, tasks
from regraft import recipe as recipes
from regraft.errors import BadInput, Exit
from regraft.parts import Recipe
from tests import champions
from tests.unit.test_cli import regraft

TASK = tasks.of("text-classification")


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the tiny base model."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def declared(base: Path, max_length: int = 16) -> Recipe:
    return recipes.load(file_of(base, max_length))


def file_of(base: Path, max_length: int = 16) -> Path:
    file = champions.recipe_file(base.parent, base)
    file.write_text(file.read_text().replace("max_length: 16", f"max_length: {max_length}"))
    return file


def edit(file: Path, **values: Any) -> None:
    """Sets keys of a JSON file; those whose value is None are taken out."""
    document = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def scores(base: Path, max_length: int = 16) -> torch.Tensor:
    """What the model answers, with the loss of it being there."""
    model, tokenizer = TASK.for_training(declared(base, max_length), base.parent / "scratch")
    batch = tokenizer(["good film", "a " * 200], truncation=True, max_length=max_length, padding=True)
    ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
    answer = model.eval()(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1]))
    assert torch.isfinite(answer.loss)
    return answer.logits  # type: ignore[no-any-return]


def test_a_head_for_other_labels_gives_way_to_a_fresh_one(base: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(base, num_labels=5)
    BertForSequenceClassification(config).save_pretrained(base)
    assert scores(base).shape == (2, 2)
    assert torch.equal(scores(base), scores(base)), "the fresh head is not of the recipe's seed"


def test_a_base_model_that_gave_several_labels_at_once_gives_one(base: Path) -> None:
    edit(base / "config.json", problem_type="multi_label_classification")
    assert scores(base).shape == (2, 2)


def test_a_text_may_be_as_long_as_the_model_has_positions(base: Path) -> None:
    assert scores(base, max_length=64).shape == (2, 2)


@pytest.mark.parametrize("special", ["sep_token", "unk_token"])
def test_without_tokens_for_padding_and_for_the_end_another_one_fills_up(base: Path, special: str) -> None:
    names = ("pad_token", "eos_token", "sep_token", "unk_token", "bos_token", "cls_token", "mask_token")
    values = {name: None for name in names if name != special}
    edit(base / "tokenizer_config.json", **values)
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    assert AutoTokenizer.from_pretrained(base).pad_token is None
    assert scores(base).shape == (2, 2)


def small(config: str) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    return getattr(transformers, config)(**sizes, vocab_size=60, max_position_embeddings=64)


WITHOUT_A_HEAD: dict[str, Callable[[], Any]] = {
    "BERT without a pooler": lambda: transformers.BertModel(small("BertConfig"), add_pooling_layer=False),
    "BERT with a head of words": lambda: transformers.BertForMaskedLM(small("BertConfig")),
    "Llama with a head of words": lambda: transformers.LlamaForCausalLM(small("LlamaConfig")),
    "Llama with a score": lambda: transformers.LlamaForSequenceClassification(small("LlamaConfig")),
    "ALBERT, whose layers share weights": lambda: transformers.AlbertModel(small("AlbertConfig")),
    "DistilBERT, whose head has two layers": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=60, dim=32, hidden_dim=64, n_heads=2, n_layers=2)
    ),
}


@pytest.mark.parametrize("kind", WITHOUT_A_HEAD)
def test_what_is_not_of_the_trunk_may_be_missing_or_left_over(kind: str, base: Path) -> None:
    WITHOUT_A_HEAD[kind]().save_pretrained(base)
    base_model.check(declared(base), base)
    assert scores(base).shape == (2, 2)


def broken_json(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "bert",\n oops}')


def list_for_config(base: Path) -> None:
    (base / "config.json").write_text("[]")


def no_model_type(base: Path) -> None:
    edit(base / "config.json", model_type=None)


def no_config(base: Path) -> None:
    (base / "config.json").unlink()


def truncated(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def only_a_pointer(base: Path) -> None:
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def empty_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"")


def no_tokenizer(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (base / name).unlink(missing_ok=True)


def broken_tokenizer(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_text(file.read_text()[:200])


def a_shard_is_missing(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def no_index(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")


def an_adapter(base: Path) -> None:
    (base / "config.json").unlink()
    (base / "model.safetensors").rename(base / "adapter_model.safetensors")
    (base / "adapter_config.json").write_text("{}")


def of_images(base: Path) -> None:
    edit(base / "config.json", model_type="vit", image_size=224, num_channels=3)


def of_images_and_texts(base: Path) -> None:
    edit(base / "config.json", model_type="clip", vision_config={})


def encoder_and_decoder(base: Path) -> None:
    edit(base / "config.json", model_type="t5", is_encoder_decoder=True)


def more_tokens(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(base)


def fewer_layers_than_said(base: Path) -> None:
    edit(base / "config.json", num_hidden_layers=3)


def more_layers_than_said(base: Path) -> None:
    edit(base / "config.json", num_hidden_layers=1)


def nested_deep(base: Path) -> None:
    (base / "config.json").write_text("[" * 100_000)


def an_endless_number(base: Path) -> None:
    (base / "config.json").write_text('{"vocab_size": %s}' % ("9" * 5000))


def positions_that_are_true(base: Path) -> None:
    edit(base / "config.json", max_position_embeddings=True)


def a_vocabulary_of_text(base: Path) -> None:
    edit(base / "config.json", vocab_size="60")


def a_tokenizer_that_is_text(base: Path) -> None:
    edit(base / "tokenizer.json", model="WordPiece")


def a_tokenizer_that_is_a_list(base: Path) -> None:
    edit(base / "tokenizer.json", model=["WordPiece"])


def a_vocabulary_that_is_a_number(base: Path) -> None:
    edit(base / "tokenizer.json", model={"vocab": 5})


def added_tokens_that_are_a_number(base: Path) -> None:
    edit(base / "tokenizer.json", added_tokens=5)


def weights_that_are_a_folder(base: Path) -> None:
    (base / "model.safetensors").rename(base / "one.safetensors")
    (base / "model.safetensors").mkdir()


def headed(base: Path, head: bytes) -> None:
    (base / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)


def offsets_that_are_text(base: Path) -> None:
    headed(base, b'{"a": {"data_offsets": ["0", "4"]}, "b": {"data_offsets": [4, null]}}')


def a_head_nested_deep(base: Path) -> None:
    headed(base, b"[" * 100_000)


def a_name_that_no_file_has(base: Path) -> None:
    (base / "model.safetensors").rename(base / "one.safetensors")
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": f"{'x' * 300}.safetensors", "b": "y.safetensors"}})
    )


FOUND_IN_FILES: dict[Callable[[Path], None], str] = {
    broken_json: "config.json:2: not JSON: Expecting property name",
    list_for_config: "holds a list, expected a JSON object",
    no_model_type: "config.json has no model_type",
    no_config: "the base model has no config.json",
    truncated: "bytes long, expected",
    only_a_pointer: "it is a pointer of Git LFS",
    empty_weights: "not a safetensors file",
    no_tokenizer: "the base model has no tokenizer",
    broken_tokenizer: "tokenizer.json:",
    a_shard_is_missing: "1 are missing: model-00002-of-00002.safetensors",
    no_index: "what is there is model-00001-of-00002.safetensors",
    an_adapter: "an adapter, not a base model",
    of_images: "vit is a model of images",
    of_images_and_texts: "clip is a model of images",
    encoder_and_decoder: "t5 is an encoder with a decoder",
    more_tokens: "and the model has embeddings up to",
    fewer_layers_than_said: "config.json says 3 layers, and the weights have 2, as bert.encoder.layer",
    more_layers_than_said: "config.json says 1 layers, and the weights have 2",
    nested_deep: "nested too deep",
    an_endless_number: "a number of 5,000 digits",
    positions_that_are_true: "max_position_embeddings is true or false, expected a whole number",
    a_vocabulary_of_text: "vocab_size is a text, expected a whole number",
    a_tokenizer_that_is_text: "model is a text, expected an object",
    a_tokenizer_that_is_a_list: "model is a list, expected an object",
    a_vocabulary_that_is_a_number: "vocab is a whole number, expected an object or a list",
    added_tokens_that_are_a_number: "added_tokens is a whole number, expected a list",
    weights_that_are_a_folder: "cannot be read: Is a directory",
    offsets_that_are_text: "not a safetensors file",
    a_head_nested_deep: "nested too deep",
    a_name_that_no_file_has: "2 are missing",
}


@pytest.mark.parametrize("damage", FOUND_IN_FILES, ids=lambda damage: damage.__name__)
def test_what_cannot_be_trained_on_is_refused_before_anything_is_loaded(
    damage: Callable[[Path], None], base: Path, tmp_path: Path
) -> None:
    damage(base)
    recipe = declared(base)
    with pytest.raises(BadInput) as checked:
        base_model.check(recipe, base)
    assert FOUND_IN_FILES[damage] in str(checked.value)
    assert checked.value.where
    assert checked.value.next
    with pytest.raises(BadInput) as trained:
        TASK.for_training(recipe, tmp_path / "scratch")
    assert str(trained.value) == str(checked.value)


def weights_of_another_model(base: Path) -> None:
    edit(base / "config.json", model_type="distilbert", architectures=None, dim=32, n_layers=2, n_heads=2)


def a_weight_is_missing(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def other_sizes(base: Path) -> None:
    edit(base / "config.json", intermediate_size=48)


def a_type_that_nobody_knows(base: Path) -> None:
    edit(base / "config.json", model_type="nobody")


def a_tokenizer_of_nonsense(base: Path) -> None:
    (base / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')


def no_special_token(base: Path) -> None:
    names = ("pad_token", "eos_token", "sep_token", "unk_token", "bos_token", "cls_token", "mask_token")
    edit(base / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **dict.fromkeys(names))
    (base / "special_tokens_map.json").unlink(missing_ok=True)


FOUND_BY_LOADING: dict[Callable[[Path], None], str] = {
    weights_of_another_model: "the weights are not those of a distilbert",
    a_weight_is_missing: "bert.encoder.layer.1.attention.self.query.weight are missing, and would be random",
    other_sizes: "the weights have other shapes than config.json says: bert.encoder",
    a_type_that_nobody_knows: "not a base model for text-classification",
    a_tokenizer_of_nonsense: "the base model's files cannot be loaded",
    no_special_token: "the tokenizer has no special token",
}


@pytest.mark.parametrize("damage", FOUND_BY_LOADING, ids=lambda damage: damage.__name__)
def test_what_only_loading_tells_is_refused_before_training(
    damage: Callable[[Path], None], base: Path, tmp_path: Path
) -> None:
    damage(base)
    with pytest.raises(BadInput) as raised:
        TASK.for_training(declared(base), tmp_path / "scratch")
    assert FOUND_BY_LOADING[damage] in raised.value.what
    assert len(raised.value.what) < 700
    assert raised.value.where


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (fewer_layers_than_said, "are missing, and would be random"),
        (more_layers_than_said, "bert.encoder.layer.1.attention.output.LayerNorm.bias would be left out"),
    ],
)
def test_of_a_model_whose_files_are_not_at_hand_loading_tells_how_many_layers_it_has(
    damage: Callable[[Path], None], said: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(base)
    monkeypatch.setattr(base_model, "check", lambda *_: None)
    with pytest.raises(BadInput, match=said):
        TASK.for_training(declared(base), tmp_path / "scratch")


def test_more_tokens_than_positions_are_refused_with_the_number_that_would_do(base: Path) -> None:
    with pytest.raises(BadInput, match="the base model reads 64 at most") as raised:
        base_model.check(declared(base, max_length=65), base)
    assert raised.value.where == "training.max_length"
    assert "max_length: 64" in str(raised.value.next)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False}, None),
        ({"model_type": "bloom"}, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_how_many_tokens_a_model_reads_is_in_its_config(config: dict[str, Any], tokens: int | None) -> None:
    assert base_model.positions(config) == tokens


def test_validate_looks_at_the_base_model_where_its_files_are_at_hand(base: Path) -> None:
    recipe = file_of(base)
    assert regraft("check", recipe).returncode == 0
    truncated(base)
    refused = regraft("check", recipe)
    assert refused.returncode == Exit.BAD_INPUT
    assert "model.safetensors" in " ".join(refused.stderr.split())
    shutil.rmtree(base)  # it may be there where the steps run
    assert regraft("check", recipe).returncode == 0
