"""What the files of a base model say before anything is loaded: read without torch, so that it costs next to nothing.

`regraft validate` asks where the files are at hand, and training before it loads them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

from regraft import sources
from regraft.errors import BadInput
from regraft.recipe import Recipe

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json", "*.model")
"""Any of these is what a tokenizer is made from."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DOWNLOAD = "download the base model anew, all its files"

DEPTHS = ("num_hidden_groups", "num_hidden_layers", "n_layer", "n_layers")
"""Keys of config.json that say how many layers have weights of their own; those of ALBERT share them in groups."""

AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Model types that count positions from behind the padding token's id: 514 positions are 512 tokens."""


def at_hand(recipe: Recipe) -> Path | None:
    """The folder of the recipe's base model, where it is one of this machine: no other place is looked at.

    Raises:
        BadInput: a variable is not set, or what it makes of the location is none.
    """
    location = sources.variables(recipe.base_model.source)
    sources.pinned(location, recipe.base_model.revision)
    if "::" in location or ("://" in location and not location.startswith(("file://", "package://"))):
        return None
    try:
        _, path = sources.filesystem(sources.expand(location))
    except BadInput:  # a package that is here only where the steps run
        return None
    return Path(path) if os.path.isdir(path) else None


def check(recipe: Recipe, folder: Path) -> None:
    """Refuses files that no classifier of this recipe can be trained from.

    Raises:
        BadInput: names the file, what is wrong with it and what to do.
    """
    if (folder / "adapter_config.json").exists():
        raise BadInput(
            "an adapter, not a base model: it has no weights of its own to train on",
            where=str(folder / "adapter_config.json"),
            next="name the model that it was made for, or save it merged: merge_and_unload(), then save_pretrained()",
        )
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        return  # config and tokenizer are in the one file, which its own package reads
    config = _document(folder / "config.json")
    fits(recipe, config, where=str(folder / "config.json"))
    _deep(config, _weights(folder), where=str(folder / "config.json"))
    if not any(found for pattern in TOKENIZERS for found in folder.glob(pattern)):
        raise BadInput(
            f"the base model has no tokenizer: none of {', '.join(TOKENIZERS)} is there",
            where=str(folder),
            next="save it beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            _document(folder / name)
    if (folder / "tokenizer.json").exists():
        where = str(folder / "tokenizer.json")
        tokens = _tokens(_document(folder / "tokenizer.json"), where=where)
        embedded(tokens, _part(config, "vocab_size", int, where=str(folder / "config.json")), where=where)


def fits(recipe: Recipe, config: Mapping[str, Any], *, where: str) -> None:
    """Whether a model of this config.json can classify texts as long as the recipe's. Raises BadInput."""
    remote = recipe.base_model.remote_code and "auto_map" in config
    kind = config.get("model_type")
    if not isinstance(kind, str) and not remote:
        raise BadInput(
            "config.json has no model_type, so that nobody can tell what model it is",
            where=where,
            next='add it, such as "model_type": "bert"; save_pretrained() of transformers writes it',
        )
    if "vision_config" in config or "audio_config" in config or {"image_size", "num_channels"} <= set(config):
        raise _no_text_model(f"{kind} is a model of images or sound", where)
    if config.get("is_encoder_decoder"):
        raise _no_text_model(f"{kind} is an encoder with a decoder", where)
    longest = positions(config, where=where)
    if longest is not None and recipe.training.max_length > longest:
        raise BadInput(
            f"{recipe.training.max_length} tokens, and the base model reads {longest} at most, says {where}",
            where="training.max_length",
            next=f"write max_length: {longest} or less under training, or take a base model that reads more",
        )


def _no_text_model(what: str, where: str) -> BadInput:
    mend = "take a base model that is an encoder or a decoder of text alone, such as BERT, ModernBERT or Llama"
    return BadInput(f"{what}; labels of texts are learned on an encoder or a decoder alone", where=where, next=mend)


def positions(config: Mapping[str, Any], *, where: str = "config.json") -> int | None:
    """How many tokens a model reads; None where there is no such end. Raises BadInput."""
    kind = str(config.get("model_type"))
    key = "n_positions" if kind in ("gpt2", "openai-gpt", "gptj", "codegen") else "max_position_embeddings"
    found = _part(config, key, int, where=where)
    if found is None or found <= 0 or config.get("position_biased_input") is False:
        return None
    if kind in AFTER_PADDING:
        padding = config.get("pad_token_id")
        return int(found) - (padding if isinstance(padding, int) else 1) - 1
    return int(found)


def layer(weight: str) -> tuple[str, int] | None:
    """The list of layers that a weight is of, and its number there; None of those that are of none."""
    parts = weight.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal() and len(part) < 10:
            return ".".join(parts[:place]), int(part)
    return None


def _deep(config: Mapping[str, Any], weights: Iterable[str], *, where: str) -> None:
    """Whether there are as many layers as config.json says: others would be random, or left out. Raises BadInput."""
    said = next((found for key in DEPTHS if (found := _part(config, key, int, where=where)) is not None), None)
    layers = [found for weight in weights if (found := layer(weight))]
    if said is None or not layers:
        return
    ((trunk, _),) = Counter(name for name, _ in layers).most_common(1)
    numbers = {number for name, number in layers if name == trunk}
    more = _part(config, "num_nextn_predict_layers", int, where=where) or 0
    if len([number for number in numbers if number < said]) < said or max(numbers) >= said + more:
        raise other_depth(f"{said} layers, and the weights have {len(numbers)}, as {trunk}", where=where)


def other_depth(what: str, *, where: str) -> BadInput:
    """The error that config.json says one number of layers, and the weights another."""
    return BadInput(
        f"config.json says {what}",
        where=where,
        next="give config.json the values of the model that was saved; if fewer layers are meant, load it with those,"
        " then save_pretrained()",
    )


def embedded(tokens: int, embeddings: int | None, *, where: str) -> None:
    """Raises BadInput where the tokenizer makes ids that the model has no embedding for."""
    if embeddings is not None and tokens > embeddings:
        raise BadInput(
            f"the tokenizer makes ids up to {tokens - 1}, and the model has embeddings up to {embeddings - 1}",
            where=where,
            next="save the model with as many: model.resize_token_embeddings(len(tokenizer)), then save_pretrained();"
            " or take the tokenizer that it was trained with",
        )


def _tokens(tokenizer: Mapping[str, Any], *, where: str) -> int:
    """One more than the highest id that a tokenizer.json makes. Raises BadInput."""
    vocabulary = _part(_part(tokenizer, "model", dict, where=where) or {}, "vocab", dict, list, where=where) or {}
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    listed = _part(tokenizer, "added_tokens", list, where=where) or []
    added = [token.get("id") for token in listed if isinstance(token, dict)]
    return max((number for number in (*ids, *added) if isinstance(number, int)), default=-1) + 1


def _part(document: Mapping[str, Any], key: str, *kinds: type, where: str) -> Any:
    """A value of a document, None where it has none. Raises BadInput where it is of none of these kinds."""
    value = document.get(key)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    names |= {dict: "an object", list: "a list"}
    written, expected = names.get(type(value), type(value).__name__), " or ".join(names[kind] for kind in kinds)
    raise BadInput(f"{key} is {written}, expected {expected}", where=where, next=DOWNLOAD)


def _document(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BadInput."""
    try:
        found = _json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"the base model has no {file.name}", where=str(file.parent), next=DOWNLOAD) from error
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise BadInput(what, where=f"{file}:{error.lineno}", next=DOWNLOAD) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"not JSON: not UTF-8 at byte {error.start}", where=str(file), next=DOWNLOAD) from error
    except ValueError as error:
        raise BadInput(f"not of a model: {error}", where=str(file), next=DOWNLOAD) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(file), next=DOWNLOAD) from error
    if not isinstance(found, dict):
        raise BadInput(f"holds a {type(found).__name__}, expected a JSON object", where=str(file), next=DOWNLOAD)
    return found


def _json(content: str | bytes) -> Any:
    """What JSON says. Raises ValueError, also of what is JSON and no model's: nested too deep, or endless numbers."""

    def whole(digits: str) -> int:
        if len(digits) > 100:
            raise ValueError(f"a number of {len(digits):,} digits")
        return int(digits)

    try:
        return json.loads(content, parse_int=whole)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _weights(folder: Path) -> set[str]:
    """The names of all weights, where all files of them are there, and whole. Raises BadInput."""
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (folder / INDEX).exists():
        named = _part(_document(folder / INDEX), "weight_map", dict, where=str(folder / INDEX))
        if not named:
            raise BadInput("has no weight_map, which names the files", where=str(folder / INDEX), next=DOWNLOAD)
        names = sorted({str(name) for name in named.values()})
        if missing := [name for name in names if not os.path.isfile(folder / name)]:
            what = f"names {len(names)} files of weights, of which {len(missing)} are missing: {sources.some(missing)}"
            raise BadInput(what, where=str(folder / INDEX), next=DOWNLOAD)
    else:
        there = sorted(file.name for file in folder.glob("*.safetensors"))
        what = f"neither {WEIGHTS} nor {INDEX} is there; what is there is {sources.some(there) or 'no .safetensors'}"
        raise BadInput(what, where=str(folder), next=DOWNLOAD)
    return {weight for name in names for weight in _whole(folder / name)}


def _whole(file: Path) -> list[str]:
    """The names of the weights in a .safetensors file that is as long as its head says. Raises BadInput."""
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            head = int.from_bytes(content.read(8), "little")
            if not 2 <= head <= size - 8:
                raise ValueError(f"its head is {head:,} bytes long, it says")
            tensors = _json(content.read(head))
        tensors.pop("__metadata__", None)
        ends = [index(tensor["data_offsets"][1]) for tensor in tensors.values()]
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(file), next=DOWNLOAD) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BadInput(
            f"not a safetensors file, or only a part of one ({size:,} bytes): {error}"
            + ("; it is a pointer of Git LFS" if _is_pointer(file) else ""),
            where=str(file),
            next="git lfs pull, in the folder of the base model" if _is_pointer(file) else DOWNLOAD,
        ) from error
    expected = 8 + head + max(ends, default=0)
    if size != expected:
        raise BadInput(f"{size:,} bytes long, expected {expected:,} as its head says", where=str(file), next=DOWNLOAD)
    return list(tensors)


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(23) == b"version https://git-lfs"
