"""A base model in 4 bits: what transformers is told; and one error where nothing computes with it, before a load."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from regraft import causal, recipe, tasks
from regraft.errors import BadInput
from tests import worlds

GPU = torch.cuda.is_available()


def declared(task: str) -> str:
    text: str = worlds.of(task).RECIPE.format(data="nowhere", base="/no/such/model", epochs=1, more="")
    assert "precision: fp32" in text
    return text.replace("precision: fp32", "precision: fp32, base_bits: 4", 1)


@pytest.mark.skipif(GPU and find_spec("bitsandbytes") is not None, reason="this machine has what it needs")
@pytest.mark.parametrize("task", ["chat", "summarization", "preferences", "pretraining"])
def test_without_a_gpu_it_is_refused_before_anything_is_loaded(task: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a base model in 4 bits needs what is not here: ") as raised:
        tasks.of(task).for_training(recipe.parse(declared(task)), tmp_path)
    assert raised.value.where == "training.base_bits", "and not the base model, which does not exist"
    assert ("a GPU that torch finds" in raised.value.what) == (not GPU)
    assert ("the package bitsandbytes" in raised.value.what) == (find_spec("bitsandbytes") is None)
    assert "pip install 'regraft[qlora]'" in str(raised.value.next)


def test_it_is_qloras_kind_of_four_bits() -> None:
    told = causal.four_bits()
    assert told.load_in_4bit
    assert (told.bnb_4bit_quant_type, told.bnb_4bit_use_double_quant) == ("nf4", True)
    assert told.bnb_4bit_compute_dtype == torch.bfloat16


def test_only_language_models_have_it() -> None:
    with pytest.raises(BadInput, match="base_bits"):
        recipe.parse(declared("text-classification"))


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(BadInput, match="base_bits"):
        recipe.parse(declared("chat").replace("base_bits: 4", "base_bits: 8"))
