"""What the files of a base model say before anything is loaded: read without torch, so that it costs next to nothing.

`regraft check` asks where the files are at hand, and training before it loads them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from operator import index
from pathlib import Path
from typing import Any

from regraft import locations, sources
from regraft.errors import BadInput, Temporary
from regraft.names import inside
from regraft.parts import BaseModelSource, Recipe

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json", "*.model")
"""Any of these is what a tokenizer is made from."""
LARGEST_JSON = 256 << 20
"""Bytes of a JSON file of a model: the largest tokenizers have 35 MB, and Python takes many times the text for them."""
HUB_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "model*.safetensors", "vocab.txt")
"""What is brought of a model on the Hub, which often has its weights in other forms beside these."""
RECORD = "base_model.json"
"""Of a finetune's outputs: what `compared` said of the base model that training began with."""
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
        BadInput: a variable is not set, or the location is none that a recipe may name.
    """
    location = recipe.base_model.source
    if locations.champion(location) is not None:
        return None
    if locations.protocol_of(sources.base_model(location, recipe.base_model.revision)) not in ("file", "package"):
        return None
    try:
        _, path = sources.opened(location)
    except BadInput:  # a package that is here only where the steps run
        return None
    return Path(path) if os.path.isdir(path) else None


def as_trained(recipe: Recipe, folder: Path, files: Path, *, model: str, inputs: Mapping[str, str]) -> None:
    """Downloads a base model before a finetune's model is loaded over it, and compares it with the one of its training.

    Args:
        folder: as of the load that follows.
        files: folder with the finetune's outputs.
        model: the finetune's identity, whose `inputs` these are.

    Raises:
        BadInput: it is another.
    """
    by, recorded = f"model {model[:12]} was trained on", files / RECORD
    compared(recipe.base_model, folder, digest=inputs["base_model"], by=by, recorded=recorded)


def compared(
    base: BaseModelSource, folder: Path, *, digest: str, by: str, recorded: Path | None = None
) -> dict[str, str]:
    """Reads the files of a base model that a load will take, and compares them with what pinned it once.

    After the download: any of them may have changed since the digest was taken. Of a Hub model that digest is of the
    commit's name alone, so there the files that training began with are what counts.

    Args:
        folder: where files are downloaded to, for the load too; see `sources.pretrained`.
        digest: what `sources.base_model_digest` said.
        by: what goes by that base model, for the message.
        recorded: a file of what this returned to training; models from before there was one lack it.

    Returns:
        SHA-256 of each file by its name in the base model.

    Raises:
        BadInput: they differ.
    """
    location, root = base.source, str(folder)
    sources.base_model(location, base.revision)  # before anything is brought
    if base.revision:
        found = _from_hub(base, folder)
    else:
        found = sources.look(location, sources.MODEL_FILES)
        system, path = sources.opened(location)
        if "file" in system.protocol:
            root = path.rstrip("/")
        else:
            found = sources.download(location, path, found, folder)
    digests = list(sources.digests(location, found))
    whole = sources.combined(digests)
    read = sources.base_model_digest(location, base.revision) if base.revision else whole
    named = [path.removeprefix(f"{root}/") if path != root else Path(path).name for path in found.paths]
    files = {name: each.hex() for name, each in zip(named, digests, strict=True)}
    known = json.loads(recorded.read_bytes()) if recorded is not None and recorded.exists() else files
    if read != digest or known != files:
        mend = "bring back those files, for instance by installing the version of the package that had them"
        if base.revision:
            mend = (
                "remove it from the Hub's cache and repeat the command; a cache used offline has to hold all its files"
            )
        raise BadInput(
            f"its files changed: it is not the base model that {by}",
            where=base.source,
            state="the champion stays",
            next=mend,
        )
    return files


def _from_hub(base: BaseModelSource, folder: Path) -> sources.Listed:
    """Brings what a Hub model is loaded from into a folder, as links into the Hub's cache.

    The load sees nothing else of the cache, which others fill as well. Raises Temporary.
    """
    from huggingface_hub import snapshot_download

    patterns = [*HUB_FILES, "*.py"] if base.remote_code else list(HUB_FILES)
    name = base.source.removeprefix("hf://")
    try:
        snapshot = snapshot_download(name, revision=base.revision, allow_patterns=patterns, ignore_patterns=["*/*"])
    except Exception as error:  # several libraries' own
        what = f"cannot be downloaded from the Hub: {type(error).__name__}: {str(error)[:400]}"
        raise Temporary(what, where=base.source, next="repeat the command") from error
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(file.name for file in Path(snapshot).iterdir() if file.is_file())
    listed = [file for file in names if any(fnmatchcase(file, pattern) for pattern in patterns)]
    for file in listed:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(os.path.realpath(Path(snapshot, file)))
    return sources.Listed(sources.filesystem(str(folder))[0], [str(folder / file) for file in listed], [], [])


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
    if not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
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
    length = _part(config, key, int, where=where)
    if length is None or length <= 0 or config.get("position_biased_input") is False:
        return None
    if kind in AFTER_PADDING:
        padding = config.get("pad_token_id")
        return int(length) - (padding if isinstance(padding, int) else 1) - 1
    return int(length)


def layer(weight: str) -> tuple[str, int] | None:
    """The list of layers that a weight is of, and its number there; None of those that are of none."""
    parts = weight.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal() and len(part) < 10:
            return ".".join(parts[:place]), int(part)
    return None


def _deep(config: Mapping[str, Any], weights: Iterable[str], *, where: str) -> None:
    """Whether there are as many layers as config.json says: others would be random, or left out. Raises BadInput."""
    depths = (_part(config, key, int, where=where) for key in DEPTHS)
    said = next((depth for depth in depths if depth is not None), None)
    layers = [named for weight in weights if (named := layer(weight))]
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


def not_too_large(size: int, *, where: str) -> None:
    """Raises BadInput where a JSON file of a model has more bytes than any needs."""
    if size > LARGEST_JSON:
        raise BadInput(f"has {size:,} bytes, and no model needs more than {LARGEST_JSON:,} there", where=where)


def _document(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BadInput."""
    try:
        not_too_large(file.stat().st_size, where=str(file))
        document = _json(file.read_text(encoding="utf-8"))
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
    if not isinstance(document, dict):
        raise BadInput(f"holds a {type(document).__name__}, expected a JSON object", where=str(file), next=DOWNLOAD)
    return document


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
        names = sorted({_counted(str(name), where=str(folder / INDEX)) for name in named.values()})
        if missing := [name for name in names if not os.path.isfile(folder / name)]:
            what = f"names {len(names)} files of weights, of which {len(missing)} are missing: {sources.some(missing)}"
            raise BadInput(what, where=str(folder / INDEX), next=DOWNLOAD)
    else:
        present = sorted(file.name for file in folder.glob("*.safetensors"))
        what = f"neither {WEIGHTS} nor {INDEX} is there; what is there is {sources.some(present) or 'no .safetensors'}"
        raise BadInput(what, where=str(folder), next=DOWNLOAD)
    return {weight for name in names for weight in _whole(folder / name)}


def _counted(name: str, *, where: str) -> str:
    """A name of a file of weights as it is, where the base model's digest is of that file too. Raises BadInput."""
    parts = inside(name, where=where).split("/")
    if not name.endswith(".safetensors") or any(part.startswith((".", "_")) for part in parts):
        raise BadInput(
            f"names {name[:200]!r}, which the base model's digest leaves out; expected a .safetensors file, not hidden",
            where=where,
            next=DOWNLOAD,
        )
    return name


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
