"""Language models: a base model and an adapter that go on with a text; what the family's tasks share.

    conversations.py  how rows hold conversations; assistant.py is how a model takes part in one
    asking.py     how a conversation or a document is rendered, with room for the answer; Triton's program has a copy
    served.py     how Triton is given such a model and asked; serving/engine.py is what Triton runs
    prompts.py    which tokens of a conversation are learned
    learning.py   what the one training loop needs of that
    answering.py  what a model says, and how probable it finds what is right
    scoring.py    how good answers in words are; showing.py is what a report shows of them
    judge.py      another model that compares answers, and how far people agree with it
    package.py    the model as MLflow keeps it; mlflow_model.py is what MLflow runs

Answers are greedy: the same model gives the same answer to the same rows. They are computed with the adapter beside the
base model, as in training, never merged: without it the same weights are the base model's own answer.
"""

from __future__ import annotations

import inspect
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from regraft import adapters, parts
from regraft.causal.judge import Judge
from regraft.errors import BadInput
from regraft.fields import Milliseconds, Share

Ratio = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]


class Training(parts.Training):
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them: a third more time, far less memory."""
    base_bits: Literal[4] | None = None
    """Hold the base model in 4 bits while an adapter is trained over it (QLoRA): a quarter of the memory of bf16. Needs
    a GPU and bitsandbytes. Where the model answers, its base is whole."""


class Generation(parts.Part):
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Longest answer, in tokens; a longer one is cut. Of training.max_length, so many are kept for it."""


class Outputs(parts.Part):
    """Largest shares of answers that have a fault; all of them are reported, and judged where a share is given."""

    empty: Share | None = 0.01
    truncated: Share | None = 0.05
    """Did not end within generation.max_tokens."""
    repeated: Share | None = 0.05
    """Say four words or more twice."""
    copied: Share | None = None
    """Are, for ten words or more in a row, the text's."""


class Gates(parts.Gates):
    outputs: Outputs = Outputs()
    length_ratio: Ratio | None = (0.3, 3.0)
    """Between what the length of all answers together, against that of the references, has to be."""
    judge: Judge | None = None
    """A language model that compares the challenger's answers with the champion's, or with its base model's."""


class Serving(parts.Serving):
    """Of one merged model a version, in fp32: what it says is what it said when it was judged."""

    backend: Literal["torch"] = "torch"
    precision: Literal["auto", "fp32"] = "auto"
    max_batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Answers that are computed together; more wait."""
    latency_budget_ms: Milliseconds = 300_000
    """The 99th percentile of whole answers, of single requests of the trial."""
    parity: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Largest share of answers that may differ from the offline ones, in any character."""


class Tuned(parts.Recipe):
    """What a recipe says of any language model."""

    training: Training = Training()


class Recipe(Tuned):
    """What a recipe says of one that answers in words."""

    generation: Generation = Generation()
    serving: Serving = Serving()


class Assistant(Recipe):
    """Of tasks whose models take part in conversations."""

    system: Annotated[str, Field(max_length=10_000)] | None = None
    """What the model is told before each conversation that has no word of the system itself."""
    chat_template: Annotated[str, Field(min_length=1, max_length=30_000)] | None = None
    """How turns are told apart, in Jinja as transformers has it, instead of the base model's own; it is kept with the
    adapter's tokenizer."""


@dataclass(frozen=True)
class Causal:
    """A model ready for inference, its base and its adapter side by side.

    Attributes:
        max_length: tokens of prompt and answer together.
        max_tokens: of them, those of the longest answer; 0 of a model that is asked for none.
        told: what the recipe asks it with, as the task understands it: a prompt, or a word of the system.
        adapted: whether the adapter counts; without it, what answers is the base model.
    """

    model: Any
    tokenizer: Any
    max_length: int
    max_tokens: int
    told: str | None = None
    adapted: bool = True

    @property
    def room(self) -> dict[str, int]:
        """How many tokens there are, as those take it who make prompts."""
        return {"max_length": self.max_length, "max_tokens": self.max_tokens}

    def computing(self) -> AbstractContextManager[Any]:
        """In this, the model computes with its adapter or without, as `adapted` says."""
        return nullcontext() if self.adapted else self.model.disable_adapter()


def _base(recipe: parts.Recipe, folder: Path, *, dtype: str, **own: Any) -> tuple[Any, Any]:
    """The base model and its tokenizer. Raises BadInput where it is none that goes on with a text.

    Args:
        own: what is said to transformers beside the type of numbers.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    where = recipe.base_model.source
    model, loaded, tokenizer = adapters.base(recipe, folder, loader="AutoModelForCausalLM", dtype=dtype, **own)
    config = model.config
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise BadInput(
            f"{config.model_type} fills gaps: it was not trained to go on with a text",
            where=where,
            next="take a language model that is a decoder, such as Llama, Qwen, Mistral or SmolLM",
        )
    if wrong := sorted({str(key) for key in loaded["missing_keys"]} | {str(k) for k in loaded["mismatched_keys"]}):
        raise BadInput(
            f"the weights are not those of a {config.model_type} as config.json says: {wrong[0]} would be random",
            where=where,
            next="give config.json the values of the model that was saved, or download the base model anew",
        )
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise BadInput(
            f"{type(model).__name__} computes its head for all tokens or none; regraft asks for those that count",
            where=where,
            next="take a model whose code in transformers knows logits_to_keep, as those of its main families do",
        )
    model.generation_config = _greedy(model.generation_config)
    return model, _ends(tokenizer, where=where)


def _greedy(of: Any) -> Any:
    """What a base model says of generation, without all but its tokens: it may say that what was said before is to be
    punished, which `generate` would do though nobody asked."""
    from transformers import GenerationConfig

    tokens = {name: getattr(of, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens)  # type: ignore[no-untyped-call]


def _ends(tokenizer: Any, *, where: str) -> Any:
    """The tokenizer. Raises BadInput where no text would end with it, or it does not say where its tokens lie."""
    if tokenizer.eos_token_id is None:
        raise BadInput(
            "the tokenizer has no token that ends a text, so that no answer would ever end",
            where=where,
            next="set one that the model has an embedding for: tokenizer.eos_token = TOKEN, then save_pretrained()",
        )
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput("the tokenizer has no tokenizer.json", where=where, next="choose a base model that has one")
    return tokenizer


def tokenizer(name: str, **options: Any) -> Any:
    """A tokenizer, from its files alone.

    Raises:
        BadInput: it is none that a language model is trained with.
        Exception: it takes more than the files of a tokenizer, or those are damaged.
    """
    from transformers import AutoTokenizer

    return _ends(AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options), where=name)


def for_training(recipe: Tuned, folder: Path) -> tuple[Any, Any]:
    """The base model with a fresh adapter, seeded by the recipe, and its tokenizer.

    The base is in bf16 where that pays, or in 4 bits where the recipe says so. Embeddings and head stay as they are.

    Raises:
        BadInput: it cannot be loaded, or not in 4 bits here.
    """
    from transformers import set_seed

    training = recipe.training
    own = in_four_bits() if training.base_bits else {}
    set_seed(training.seed)
    dtype = "bfloat16" if adapters.bf16_pays(training) else "float32"
    model, tokenizer = _base(recipe, folder, dtype=dtype, **own)
    model.config.use_cache = False
    again = {"use_reentrant": False}
    if training.base_bits:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, training.gradient_checkpointing, again)  # type: ignore[no-untyped-call]
    elif training.gradient_checkpointing:
        model.gradient_checkpointing_enable(again)
        model.enable_input_require_grads()
    return adapters.over(recipe, model, task_type="CAUSAL_LM"), tokenizer


def in_four_bits() -> dict[str, Any]:
    """What is said to transformers for a base model in 4 bits, as Dettmers et al. (NeurIPS 2023) have it.

    Raises:
        BadInput: this machine lacks what computes with it.
    """
    import torch

    lacks = ["the package bitsandbytes"] * (find_spec("bitsandbytes") is None)
    lacks += ["a GPU that torch finds"] * (not torch.cuda.is_available())
    if lacks:
        raise BadInput(
            f"a base model in 4 bits needs what is not here: {' and '.join(lacks)}",
            where="training.base_bits",
            next="pip install 'regraft[qlora]' where finetune runs, with resources: {finetune: {gpu: 1}} in the recipe,"
            " or leave base_bits out",
        )
    return {"quantization_config": four_bits(), "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def four_bits() -> Any:
    """NF4 with the scales quantised too, computing in bf16."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load(recipe: Recipe, model: Path, folder: Path, *, told: str | None) -> Causal:
    """The model of a finetune, from the files it published; see `adapted`.

    Args:
        told: see `Causal`.
    """
    return Causal(*adapted(recipe, model, folder), recipe.training.max_length, recipe.generation.max_tokens, told)


def adapted(recipe: parts.Recipe, model: Path, folder: Path) -> tuple[Any, Any]:
    """The base model with a finetune's adapter, and its tokenizer: in bf16 on a GPU that has it, else in fp32.

    Args:
        model: folder with `adapter/` and `tokenizer/`.
        folder: where a base model in a bucket is downloaded to.
    """
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    with_adapter, its = _under_adapter(recipe, model, folder, dtype="bfloat16" if on_gpu else "float32")
    return with_adapter.eval(), adapters.tokenizer(recipe, model, its)


def _under_adapter(recipe: parts.Recipe, model: Path, folder: Path, *, dtype: str) -> tuple[Any, Any]:
    """The base model under a finetune's adapter, and the base model's own tokenizer."""
    from peft import PeftModel

    base, its = _base(recipe, folder, dtype=dtype)
    return PeftModel.from_pretrained(base, str(model / "adapter"), use_safetensors=True), its


def merged(recipe: parts.Recipe, model: Path, folder: Path, out: Path) -> None:
    """Saves the model of a finetune as a base model in fp32, in which what it learned is part of the weights.

    Args:
        recipe: its own.
        model: folder with `adapter/` and `tokenizer/`.
        folder: where a base model in a bucket is downloaded to.
        out: the base model's folder.
    """
    with_adapter, _ = _under_adapter(recipe, model, folder, dtype="float32")
    with_adapter.merge_and_unload().save_pretrained(str(out))
    shutil.copytree(model / "tokenizer", out, dirs_exist_ok=True)


def untrained(model: Causal) -> Causal:
    """The base model, asked the same way."""
    return replace(model, adapted=False)
