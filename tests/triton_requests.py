"""Requests to the served tiny model, for hypothesis: those that are well-formed, and those that are not.

What ends tritonserver 2.51 itself is not among them: tests/unit/test_serve.py has it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests import champions

INFER, GENERATE = "/v2/models/tiny/infer", "/v2/models/tiny/generate"
MOST = 32
"""Texts in a request, as a recipe has it by default."""
ONE = ["good film"]


@dataclass(frozen=True)
class Request:
    body: bytes
    path: str = INFER
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def document(texts: Sequence[str], **changes: Any) -> dict[str, Any]:
    """The JSON of a request, with other members of its input."""
    text = {"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}
    return {"inputs": [{**text, **changes}]}


def in_json(content: Any, path: str = INFER, *, ascii_only: bool = True) -> Request:
    return Request(json.dumps(content, ensure_ascii=ascii_only).encode(), path)


def packed(texts: Sequence[str]) -> bytes:
    """Texts as Triton has them in bytes: each with its length before it."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def in_bytes(
    content: bytes, count: int, *, size: Any = None, header: object = None, kind: str = "BYTES", **more: Any
) -> Request:
    """A request whose texts come in bytes behind its JSON.

    Args:
        size: of the content, as the JSON has it; the right one by default.
        header: the length of the JSON, as the header has it; the right one by default.
    """
    sized = {"binary_data_size": len(content) if size is None else size}
    text = {"name": "text", "shape": [count, 1], "datatype": kind, "parameters": sized}
    head = json.dumps({"inputs": [text], **more}).encode()
    length = len(head) if header is None else header
    return Request(head + content, headers={"Inference-Header-Content-Length": str(length)})


PIECES = st.sampled_from(["", "\0", "a\0b", " ", "\r\n\t", "\ufeff", "\uffff", "\U0010ffff", "e\u0301", '"\\', "{}"])
WRITINGS = st.sampled_from(["שלום עולם", "مرحبا", "\u202eabc", "映画は良い", "👩\u200d👩\u200d👧😀", "ﬁlm İı"])
LONG = st.builds(lambda piece, times: piece * times, st.text(min_size=1, max_size=5), st.integers(1_000, 30_000))
KNOWN = st.integers(0, 70).flatmap(
    lambda count: st.lists(st.sampled_from(champions.WORDS), min_size=count, max_size=count).map(" ".join)
)
"""Texts of words that the model knows, and so of any length in tokens."""
TEXTS = st.text(max_size=30) | KNOWN | PIECES | WRITINGS | LONG
NAMES = st.text(max_size=20).filter(lambda name: "\0" not in name)
"""Triton reads names to their first zero byte."""
SCALARS = (
    st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
)
UNKNOWN = st.dictionaries(st.text("abc_", min_size=1, max_size=4), SCALARS, max_size=3)
"""Parameters that Triton does not know, and leaves alone."""


@st.composite
def well_formed(draw: st.DrawFn) -> tuple[list[str], Request]:
    """Texts, and a request for them in one of the ways that there are."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=draw(st.sampled_from([1, 3, MOST]))))
    way = draw(st.sampled_from(["flat", "nested", "bytes", "generate"]))
    if way == "generate":
        return texts, in_json({"text": texts, **draw(UNKNOWN)}, GENERATE, ascii_only=draw(st.booleans()))
    names = draw(st.lists(st.sampled_from(["label", "probabilities"]), unique=True))
    more: dict[str, Any] = {
        "id": draw(NAMES),
        "parameters": draw(UNKNOWN) | draw(st.sampled_from([{}, {"binary_data_output": True}])),
        "outputs": [{"name": name, "parameters": {"binary_data": draw(st.booleans())}} for name in names],
    }
    for name in draw(st.sets(st.sampled_from(sorted(more)))):
        del more[name]
    path = draw(st.sampled_from([INFER, "/v2/models/tiny/versions/1/infer"]))
    if way == "bytes":
        return texts, replace(in_bytes(packed(texts), len(texts), **more), path=path)
    content = document(texts, data=[[text] for text in texts] if way == "nested" else texts) | more
    members = dict(draw(st.permutations(sorted(content.items()))))
    return texts, in_json(members, path, ascii_only=draw(st.booleans()))


VALUES = st.recursive(
    st.none() | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
MEMBERS = {"name": str, "shape": list, "datatype": str, "data": list}
WHOLE = {"inputs": list, "outputs": list, "id": str, "parameters": dict}
"""Members of an input, and of all of the JSON, with their types."""
KINDS = st.sampled_from(["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"])
NO_UTF8 = st.sampled_from([b"\xff", b"\x80", b"\xc3(", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82."])
REGION = {"shared_memory_region": "any", "shared_memory_byte_size": 8}
HEAD = len(in_bytes(packed(ONE), 1).body) - len(packed(ONE))


def having(name: str, value: Any) -> Request:
    """A request in which a member of its input, or of all of it, has another value."""
    return in_json(document(ONE, **{name: value}) if name in MEMBERS else document(ONE) | {name: value})


def but(values: st.SearchStrategy[Any], *right: Any) -> st.SearchStrategy[Any]:
    return values.filter(lambda value: value not in right)


def of_another_type(name: str) -> st.SearchStrategy[Request]:
    right = {**MEMBERS, **WHOLE}[name]
    return VALUES.filter(lambda value: not isinstance(value, right)).map(lambda value: having(name, value))


def without(name: str) -> st.SearchStrategy[Request]:
    content = document(ONE)
    del content["inputs"][0][name]
    return st.just(in_json(content))


def nested(name: str, depth: int, brackets: tuple[str, str]) -> Request:
    """A request in which a member, or all of it, is JSON within JSON."""
    deep = brackets[0] * depth + "1" + brackets[1] * depth
    return Request((having(name, "HERE").body if name else b'"HERE"').replace(b'"HERE"', deep.encode()))


def cut(request: Request, share: float) -> Request:
    """A request whose body is cut off, though not before its first byte: no body at all is an empty text."""
    return replace(request, body=request.body[: 1 + int(share * (len(request.body) - 1))])


def holds(content: bytes) -> int:
    """How many texts are packed in some bytes; -1 where they are not packed so."""
    count = at = 0
    while at + 4 <= len(content):
        at += 4 + struct.unpack_from("<I", content, at)[0]
        count += 1
    return count if at == len(content) else -1


def not_in_utf8(way: str, before: str, wrong: bytes, behind: str) -> Request:
    """A request with a text that holds bytes which are not UTF-8."""
    if way == "bytes":
        content = before.encode() + wrong + behind.encode()
        return in_bytes(packed(ONE) + struct.pack("<I", len(content)) + content, 2)
    text = f"{before}HERE{behind}"
    request = in_json({"text": text}, GENERATE) if way == "generate" else in_json(document([*ONE, text]))
    return replace(request, body=request.body.replace(b"HERE", wrong))


def at_path(path: str) -> Callable[[Any], Request]:
    return lambda value: in_json(document(ONE), path.format(quote(str(value), safe="")))


MALFORMED: dict[str, tuple[st.SearchStrategy[Request], str]] = {
    "no input": (st.just(in_json({"inputs": []})), "missing required input.*'text'"),
    "another input": (but(NAMES, "text").map(lambda name: having("name", name)), "unexpected inference input '"),
    "a second input": (
        NAMES.map(lambda name: in_json({"inputs": [*document(ONE)["inputs"], *document(ONE, name=name)["inputs"]]})),
        "'text' already exists|expected 1 inputs but got 2",
    ),
    "a shape that does not fit": (
        but(st.lists(st.integers(0, 40) | st.integers(0, 2**31 - 1), max_size=4), [1, 1]).map(
            lambda shape: having("shape", shape)
        ),
        "(shape|string elements|batch-size).*'(text|tiny)'",
    ),
    "more texts than a batch takes": (
        st.integers(MOST + 1, 200).map(lambda count: in_json(document(ONE * count))),
        f"batch-size must be <= {MOST}",
    ),
    "more or fewer texts than the shape says": (
        st.lists(TEXTS, max_size=5).filter(lambda texts: len(texts) != 1).map(lambda texts: having("data", texts)),
        "string elements.*'text'",
    ),
    "another datatype": (
        (KINDS | but(NAMES, "BYTES")).map(lambda kind: having("datatype", kind)),
        "invalid datatype for input text|'data'|data via JSON",
    ),
    "another datatype of bytes": (
        KINDS.map(lambda kind: in_bytes(packed(ONE), 1, kind=kind)),
        "data-type is '.+', but model 'tiny' expects 'BYTES'",
    ),
    "something else than texts": (
        st.lists(VALUES.filter(lambda value: not isinstance(value, str | list)), min_size=1, max_size=3).map(
            lambda data: having("data", data)
        ),
        "JSON bytes array|string elements",
    ),
    **{f"no {name}": (without(name), f"'{name}'") for name in MEMBERS},
    **{f"{name} of another type": (of_another_type(name), f"'{name}'|request params") for name in MEMBERS | WHOLE},
    "another output": (
        but(NAMES, "label", "probabilities").map(lambda name: having("outputs", [{"name": name}])),
        "unexpected inference output '",
    ),
    "parameters that Triton does not take": (
        st.sampled_from(
            [{"a": None}, {"a": []}, {"a": {"b": 1}}, {"triton_a": 1}, {"priority": -1}, {"timeout": "a"}]
        ).map(lambda value: having("parameters", value)),
        "parameter|'priority'|'timeout'",
    ),
    "the server's memory": (
        st.sampled_from([having("outputs", [{"name": name, "parameters": REGION}]) for name in ("label", "other")]),
        "Unable to find shared memory region: 'any'",
    ),
    "JSON that is cut off": (
        st.builds(
            cut,
            st.sampled_from([in_json(document(ONE)), in_json({"text": ONE}, GENERATE)]),
            st.floats(0, 1, exclude_max=True),
        ),
        "failed to parse the request JSON buffer: .+ at [0-9]+",
    ),
    "other bytes": (
        st.builds(Request, st.binary(min_size=1, max_size=40), st.sampled_from([INFER, GENERATE])),
        "parse|non-object|missing required input",
    ),
    "other JSON": (VALUES.map(in_json), "Unable to parse 'inputs'"),
    "JSON within JSON": (  # no deeper: 30,000 levels end the server
        st.builds(
            nested,
            st.sampled_from(["", *MEMBERS, *WHOLE]),
            st.integers(2, 1_000),
            st.sampled_from([("[", "]"), ('{"a":', "}")]),
        ),
        "parse|request params|has invalid type|no field is set",
    ),
    "a text that is not UTF-8": (
        st.builds(
            not_in_utf8,
            st.sampled_from(["bytes", "json", "generate"]),
            st.text("ab é😀", max_size=9),
            NO_UTF8,
            st.text("ab é😀", max_size=9),
        ),
        "^text is not valid UTF-8: .+ at byte [0-9]+$",
    ),
    "a header of another length": (
        but(st.integers(-HEAD, HEAD + 20) | st.integers(-(2**31), 2**31 - 1), 0, HEAD).map(
            lambda size: in_bytes(packed(ONE), 1, header=size)
        ),
        "header size|parse|additional",
    ),
    "bytes of another size": (
        but(st.integers(0, 30) | st.integers(0, 2**63), len(packed(ONE))).map(
            lambda size: in_bytes(packed(ONE), 1, size=size)
        ),
        "additional (bytes|input data)",
    ),
    "a size that is no number": (
        (st.integers(max_value=-1) | but(VALUES, None).filter(lambda value: type(value) is not int)).map(
            lambda size: in_bytes(packed(ONE), 1, size=size)
        ),
        "'binary_data_size'",
    ),
    "bytes that are not as many texts": (
        st.tuples(st.binary(max_size=60) | st.lists(TEXTS, max_size=4).map(packed), st.integers(1, 3))
        .filter(lambda bytes_of: holds(bytes_of[0]) != bytes_of[1])
        .map(lambda bytes_of: in_bytes(*bytes_of)),
        "string",
    ),
    "another model": (
        but(NAMES, "tiny", ".").map(at_path("/v2/models/{}/infer")),
        "unknown model: '|Not Found",
    ),
    "another version": (
        (st.integers(2, 2**80) | NAMES.filter(lambda name: not re.fullmatch("0*1", name))).map(
            at_path("/v2/models/tiny/versions/{}/infer")
        ),
        "version .+ is not found|version should be an integral value|Not Found",
    ),
    "another path": (NAMES.map(at_path("/{}")), "Not Found"),
    "another method": (
        st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "OPTIONS"]).map(
            lambda method: replace(in_json(document(ONE)), method=method)
        ),
        "Method Not Allowed",
    ),
}
"""By what is wrong with it: requests, and what a refusal must name."""

READ_OTHERWISE: dict[str, tuple[Request, list[str]]] = {
    "no body is an empty text": (Request(b""), [""]),
    "a header of no length makes the body a text": (
        Request(b"good film", headers={"Inference-Header-Content-Length": "0"}),
        ONE,
    ),
    "and so does one that is no number": (
        Request(b"good film", headers={"Inference-Header-Content-Length": "many"}),
        ONE,
    ),
    "a batch of none, in bytes, is one of one": (in_bytes(packed(ONE), 0), ONE),
    "a batch is counted modulo 2^32": (having("shape", [2**32 + 1, 1]), ONE),
    "a name ends at its first zero byte": (having("name", "text\0s"), ONE),
    "a text may lie in any number of brackets": (having("data", [[[["good film"]]]]), ONE),
    "what Triton does not know is left alone": (in_json(document(ONE, other=1) | {"another": 2}), ONE),
}
"""What Triton takes for a request that is well-formed before any model sees it, and as which texts."""
