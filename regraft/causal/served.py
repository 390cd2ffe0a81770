"""How Triton serves a language model: a request a row, its answer piece by piece; and how near it is to that offline.

One merged model a version: there is no adapter beside it that a request could be answered by instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import regraft
from regraft import serving
from regraft.causal import Causal
from regraft.causal.answering import ends

STREAMS = True
INSTEAD = {"likelihood": "chrf"}
COMPARED = "the text of answers, as a share of them,"
"""What `distance` is a difference of, in sentences."""
COPIED = ("errors.py", "escaped.py", "causal/asking.py", "causal/conversations.py")
"""What of regraft lies beside the program, and asks there as here."""
SHOWN = 120
"""Characters of what was asked and answered, where both stand in one line."""

Asks = Literal["messages", "text"]
"""What a client sends: a conversation, and with it the tools that it may call; or a document."""
_INPUTS = {"messages": ("messages", "tools"), "text": ("text",)}


class Served(NamedTuple):
    """What Triton answers to rows: texts, how many tokens each has, whether it ended by itself."""

    texts: list[str]
    tokens: list[int]
    finished: list[bool]


def tensors(asks: Asks) -> str:
    """Inputs and outputs, as config.pbtxt has them."""
    first, *others = _INPUTS[asks]
    inputs = [
        f'  {{ name: "{first}" data_type: TYPE_STRING dims: [ 1 ] }}',
        *(f'  {{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] optional: true }}' for name in others),
        '  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }',
        '  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }',
    ]
    kinds = {"text": "STRING", "finish_reason": "STRING", "prompt_tokens": "INT32", "completion_tokens": "INT32"}
    outputs = [f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ 1 ] }}' for name, kind in kinds.items()]
    return "input [\n" + ",\n".join(inputs) + "\n]\noutput [\n" + ",\n".join(outputs) + "\n]\n"


def build(model: Causal, folder: Path, *, asks: Asks) -> dict[str, Any]:
    """Writes the files of a version directory; gives what the program reads of serving.json beside what all tasks say.

    model.py     the family's program, see `serving/engine.py`
    library/     what it asks by
    torch/       base model and adapter as one, in fp32
    tokenizer/   its tokenizer

    Args:
        model: is merged by this, so that its base model answers no more.
    """
    (folder / "model.py").write_bytes(Path(serving.__file__).with_name("engine.py").read_bytes())
    for name in (*COPIED, "__init__.py", "causal/__init__.py"):
        file = folder / "library/regraft" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        if name in COPIED:
            shutil.copyfile(Path(regraft.__file__).parent / name, file)
    model.model.float().cpu().merge_and_unload().save_pretrained(str(folder / "torch"), safe_serialization=True)
    model.tokenizer.save_pretrained(str(folder / "tokenizer"))
    return {"asks": asks, "told": model.told, "ends": sorted(ends(model)), **model.room}


def streaming(asked: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Requests whose answers come piece by piece."""
    return [{**inputs, "stream": True} for inputs in asked]


def read(answers: Sequence[Sequence[Mapping[str, Any]]]) -> Served:
    """What the pieces of answers say, an answer a row."""
    last = [pieces[-1] for pieces in answers]
    return Served(
        ["".join(piece["text"] for piece in pieces) for pieces in answers],
        [int(piece.get("completion_tokens", -1)) for piece in last],
        [piece.get("finish_reason") == "stop" for piece in last],
    )


def joined(parts: Iterable[Served]) -> Served:
    """Answers to several parts of the rows as one."""
    texts, tokens, finished = zip(*parts, strict=True)
    return Served([*chain(*texts)], [*chain(*tokens)], [*chain(*finished)])


def flaw(recipe: Any, served: Served, offline: Any) -> str | None:
    """What is wrong with answers, however near they are; None where nothing is."""
    if len(served.texts) != offline.num_rows:
        return f"{len(served.texts)} answers to {offline.num_rows} rows"
    longest = recipe.generation.max_tokens
    if wrong := [count for count in served.tokens if not 0 <= count <= longest]:
        return f"an answer says that it has {wrong[0]} tokens, of {longest} at most"
    return None


def distance(one: Any, other: Any) -> float:
    """The share of answers that differ."""
    pairs = list(zip(one["answer"].to_pylist(), other["answer"].to_pylist(), strict=True))
    return len([said for said, offline in pairs if said != offline]) / max(len(pairs), 1)


def numbers(served: Served) -> Any:
    """Answers as they are offline. How probable what is right is, they do not say."""
    import pyarrow as pa

    count = len(served.texts)
    return pa.table(
        {
            "answer": pa.array(served.texts, pa.string()),
            "tokens": pa.array(served.tokens, pa.int64()),
            "finished": pa.array(served.finished, pa.bool_()),
            "log_likelihood": pa.array([0.0] * count, pa.float64()),
            "reference_tokens": pa.array([0] * count, pa.int64()),
        }
    )


def said(asked: str, outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """An answer for people, of the outputs of Triton's JSON.

    Args:
        asked: what was asked, as people read it.
    """
    return {"text": _in_line(asked), "answer": outputs["text"][0], "finish_reason": outputs["finish_reason"][0]}


def short(said: Mapping[str, Any]) -> str:
    """The same in a few words."""
    return _in_line(said["answer"])


def _in_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
