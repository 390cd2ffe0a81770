"""A base model, loaded whole or refused with one sentence, the adapter over it, batches: what all families do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regraft import base_model, remote_code, sources
from regraft.errors import BadInput, Temporary
from regraft.parts import Recipe, Training


def bf16_pays(training: Training) -> bool:
    """Whether to compute in bf16: as the recipe says, or where the hardware has it."""
    import torch

    if training.precision != "auto":
        return training.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def base(recipe: Recipe, folder: Path, *, loader: str, **own: Any) -> tuple[Any, dict[str, Any], Any]:
    """The base model, what was found of its weights, and its tokenizer. A new head is random: seed before calling.

    Args:
        folder: where a base model in a bucket is downloaded to.
        loader: class of transformers, such as AutoModelForCausalLM.
        own: what the family says to it.

    Raises:
        BadInput, Temporary: it cannot be loaded.
    """
    import transformers
    from transformers.utils import logging as said

    said.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of a fresh head, which is meant
    said.disable_progress_bar()  # type: ignore[no-untyped-call]
    declared = recipe.base_model
    name, options = sources.pretrained(declared.source, declared.revision, folder)
    if "revision" not in options:  # else it lies in the Hub's cache
        base_model.check(recipe, Path(name))
    trusted = remote_code.trusted(declared, folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trusted, **options)
        model, loaded = getattr(transformers, loader).from_pretrained(
            name,
            output_loading_info=True,
            trust_remote_code=trusted,
            use_safetensors=None if "gguf_file" in options else True,
            **own,
            **options,
        )
    except OSError as error:
        kind = Temporary if declared.source.startswith("hf://") else BadInput
        raise kind(f"cannot load the base model: {error}", where=declared.source) from error
    except ValueError as error:
        if isinstance(error, UnicodeError):
            raise _damaged(error, where=declared.source) from error
        why = str(error).partition("\n")[0][:400]  # then come the names of all models that there are
        raise BadInput(f"not a base model for {recipe.task}: {why}", where=declared.source) from error
    except ImportError as error:  # such as sentencepiece, for its tokenizer
        raise BadInput(
            f"the base model needs a package that is not installed: {error}",
            where=declared.source,
            next="pip install what the message names where the steps run",
        ) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # whatever tokenizers, safetensors and the model's own code raise: the files are to blame
        raise _damaged(error, where=declared.source) from error
    base_model.fits(recipe, model.config.to_dict(), where=declared.source)
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    base_model.embedded(tokens, _embeddings(model), where=declared.source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, where=declared.source)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, loaded, tokenizer


def _damaged(error: Exception, *, where: str) -> BadInput:
    what = f"the base model's files cannot be loaded: {type(error).__name__}: {str(error)[:400]}"
    return BadInput(what, where=where, next=base_model.DOWNLOAD)


def _embeddings(model: Any) -> int | None:
    """How many tokens a model has embeddings for; None where it makes them otherwise, as CANINE does."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def _padding(tokenizer: Any, *, where: str) -> str:
    """A token to pad with where the tokenizer has none for it: what is padded is masked, whatever it is."""
    for name in ("eos_token", "sep_token", "unk_token", "bos_token", "cls_token"):
        if token := getattr(tokenizer, name, None):
            return str(token)
    raise BadInput(
        "the tokenizer has no special token, so that there is nothing to fill up short texts with",
        where=where,
        next="set one that the model has an embedding for: tokenizer.pad_token = TOKEN, then save_pretrained()",
    )


def over(recipe: Recipe, model: Any, *, task_type: str, exclude: Sequence[str] = ()) -> Any:
    """The model with a fresh adapter over it, as the recipe's. Random: seed before the base model is loaded.

    Args:
        task_type: what peft calls the kind of model.
        exclude: modules that get no adapter.

    Raises:
        BadInput: it does not fit the model.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    adapter = recipe.adapter
    depth = model.config.num_hidden_layers
    first = max(depth - (adapter.top_layers or depth), 0)
    targets = adapter.target_modules if isinstance(adapter.target_modules, str) else list(adapter.target_modules)
    if first and isinstance(targets, str):  # peft takes its own word for all layers only
        targets = sorted({name.rpartition(".")[2] for name, _ in _linear(model)})
    config = LoraConfig(
        task_type=TaskType(task_type),
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        use_rslora=adapter.rank_stabilized,
        target_modules=targets,
        layers_to_transform=list(range(first, depth)) if first else None,
        exclude_modules=list(exclude) or None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise BadInput(f"the adapter does not fit the base model: {error}", where="adapter.target_modules") from error


def _linear(model: Any) -> list[tuple[str, Any]]:
    """Name and module of each linear layer of the trunk."""
    import torch

    return [(name, module) for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)]


def tokenizer(recipe: Recipe, model: Path, its: Any) -> Any:
    """The tokenizer of a finetune.

    Args:
        model: folder with `tokenizer/`.
        its: the base model's.
    """
    from transformers import AutoTokenizer

    kind = type(its) if recipe.base_model.remote_code else AutoTokenizer  # code comes from the base model alone
    return kind.from_pretrained(str(model / "tokenizer"), trust_remote_code=False)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, so that little is padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]
