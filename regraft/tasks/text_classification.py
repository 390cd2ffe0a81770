"""Text in, one label of a fixed set out, with the probability of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import base_model, sources
from regraft.errors import BadInput, Temporary
from regraft.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Classifier:
    """A model ready for inference: base, adapter and head in fp32, in eval mode."""

    model: Any
    tokenizer: Any
    max_length: int


def _base(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """The base model with a new head and its tokenizer. The head is random: seed before calling."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of the fresh head, which is meant
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    declared = recipe.base_model
    name, options = sources.pretrained(declared.source, declared.revision, folder)
    if not declared.source.startswith("hf://"):
        base_model.check(recipe, Path(name))
    labels = dict(enumerate(recipe.data.labels))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=bool(declared.remote_code), **options)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name,
            problem_type="single_label_classification",  # the base model may have had another
            ignore_mismatched_sizes=True,  # of a head for other labels; see _only_the_head_is_fresh
            output_loading_info=True,
            num_labels=len(labels),
            id2label=labels,
            label2id={label: i for i, label in labels.items()},
            trust_remote_code=bool(declared.remote_code),
            use_safetensors=None if "gguf_file" in options else True,
            dtype="float32",
            **options,
        )
    except OSError as error:
        kind = Temporary if declared.source.startswith("hf://") else BadInput
        raise kind(f"cannot load the base model: {error}", where=declared.source) from error
    except ValueError as error:
        said = str(error).partition("\n")[0][:400]  # then come the names of all models that there are
        raise BadInput(f"not a base model for {recipe.task}: {said}", where=declared.source) from error
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
        what = f"the base model's files cannot be loaded: {type(error).__name__}: {str(error)[:400]}"
        raise BadInput(what, where=declared.source, next=base_model.DOWNLOAD) from error
    base_model.fits(recipe, model.config.to_dict(), where=declared.source)
    _only_the_head_is_fresh(model, loaded, where=declared.source)
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    base_model.embedded(tokens, _embeddings(model), where=declared.source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, where=declared.source)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _embeddings(model: Any) -> int | None:
    """How many tokens a model has embeddings for; None where it makes them otherwise, as CANINE does."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def _only_the_head_is_fresh(model: Any, loaded: dict[str, Any], *, where: str) -> None:
    """Raises BadInput where weights of the trunk are of another shape, or missing and so random, or left out."""
    prefix = f"{model.base_model_prefix}."
    other = sorted(str(key[0] if isinstance(key, tuple) else key) for key in loaded["mismatched_keys"])
    if wrong := [name for name in other if name.startswith(prefix)]:
        raise BadInput(
            f"the weights have other shapes than config.json says: {sources.some(wrong)}",
            where=where,
            next="give config.json the values of the model that was saved, or save the model again",
        )
    trunk = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    # what the architecture can do without is not among the missing keys; a pooler is part of the head that is trained
    missing = sorted(name for name in trunk & set(loaded["missing_keys"]) if "pooler" not in name.split("."))
    if missing:
        raise BadInput(
            f"the weights are not those of a {model.config.model_type} as config.json says:"
            f" {sources.some(missing)} are missing, and would be random",
            where=where,
            next="give config.json the values of the model that was saved, or download the base model anew",
        )
    layers = {base_model.layer(name.removeprefix(prefix)) for name in trunk} - {None}
    lists = {layer[0] for layer in layers if layer}
    for name in sorted(loaded["unexpected_keys"]):
        layer = base_model.layer(name.removeprefix(prefix))
        if layer and layer[0] in lists and layer not in layers:
            raise base_model.other_depth(f"fewer layers than the weights have: {name} would be left out", where=where)


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


def for_training(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """The base model with a fresh adapter and head, seeded by the recipe, and its tokenizer.

    Args:
        folder: where a base model in a bucket is downloaded to.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import set_seed

    set_seed(recipe.training.seed)
    model, tokenizer = _base(recipe, folder)
    adapter = recipe.adapter
    depth = model.config.num_hidden_layers
    first = max(depth - (adapter.top_layers or depth), 0)
    targets = adapter.target_modules if isinstance(adapter.target_modules, str) else list(adapter.target_modules)
    if first and isinstance(targets, str):  # peft takes its own word for all layers only
        targets = sorted({name.rpartition(".")[2] for name, _ in _linear(model)})
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        layers_to_transform=list(range(first, depth)) if first else None,
        # of DistilBERT's head: it is trained whole, since its name ends as that of the classifier
        exclude_modules=["pre_classifier"] if hasattr(model, "pre_classifier") else None,
    )
    try:
        return get_peft_model(model, config), tokenizer
    except ValueError as error:
        raise BadInput(f"the adapter does not fit the base model: {error}", where="adapter.target_modules") from error


def _linear(model: Any) -> list[tuple[str, Any]]:
    """Name and module of each linear layer of the trunk."""
    import torch

    return [(name, module) for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)]


def load(recipe: Recipe, model: Path, folder: Path) -> Classifier:
    """The model of a finetune, from the files it published.

    Args:
        model: folder with `adapter/` and `tokenizer/`.
        folder: where a base model in a bucket is downloaded to.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer, set_seed

    set_seed(recipe.training.seed)
    base, _ = _base(recipe, folder)
    adapted = PeftModel.from_pretrained(base, str(model / "adapter"), use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(str(model / "tokenizer"))
    return Classifier(adapted.merge_and_unload().eval(), tokenizer, recipe.training.max_length)


def logits(classifier: Classifier, texts: Sequence[str], batch_size: int = 64) -> Array:
    """Raw scores, shape (texts, labels). Batches hold texts of like length, so that little is padding."""
    import numpy as np
    import torch

    device = next(classifier.model.parameters()).device
    encoded = classifier.tokenizer(list(texts), truncation=True, max_length=classifier.max_length)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    out = np.zeros((len(texts), classifier.model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = classifier.tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, return_tensors="pt")
            out[rows] = classifier.model(**batch.to(device)).logits.float().cpu().numpy()
    return out


def probabilities(classifier: Classifier, texts: Sequence[str], batch_size: int = 64) -> Array:
    """Softmax of the logits, shape (texts, labels)."""
    from scipy.special import softmax

    scores: Array = softmax(logits(classifier, texts, batch_size), axis=1)
    return scores


def metrics(labels: Sequence[int], scores: Array) -> dict[str, float]:
    """accuracy and f1_macro of the most probable labels.

    Args:
        labels: true label indices, shape (texts,).
        scores: probabilities or logits, shape (texts, labels).
    """
    from sklearn.metrics import accuracy_score, f1_score

    predicted = scores.argmax(axis=1)
    known = list(range(scores.shape[1]))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, labels=known, average="macro", zero_division=0)),
    }
