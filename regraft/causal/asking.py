"""How a model is asked: a conversation or a document as tokens, with room for the answer.

Triton's program has a copy of it, so that it asks to the token what is asked offline: it imports nothing but what
`regraft.causal.served.COPIED` names.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from regraft import escaped
from regraft.causal.conversations import TOOLS, opened
from regraft.errors import BadInput

Message = Mapping[str, Any]
"""One turn of a conversation: `role` and `content`, as OpenAI's and transformers' formats have them."""
ROLES = 8
"""Turns of a conversation that an error names, by role."""
FIRST = (TOOLS, "system")
"""Roles of what comes before the user's first word."""


def plain(tokenizer: Any, text: str) -> str:
    """A text without the tokenizer's own marks: a row must not end its turn and begin another's."""
    known, before = _marks(tokenizer), ""
    while known and text != before:  # what is left around one may be another
        before, text = text, known.sub(" ", text)
    return text


@functools.lru_cache(maxsize=8)
def _marks(tokenizer: Any) -> re.Pattern[str] | None:
    """An expression that is found where one of the tokenizer's own marks is."""
    found = escaped.marks(tokenizer)
    return re.compile(found) if found else None


def prompt(tokenizer: Any, messages: Sequence[Message], *, asks: bool = True) -> str:
    """A conversation as the model sees it.

    Without a chat template the turns follow each other, each of the assistant's ended by the tokenizer's mark.

    Args:
        messages: of which the first may define tools, see `conversations.TOOLS`.
        asks: whether the assistant's turn comes next.

    Raises:
        BadInput: the chat template does not take it, as some take no word of the system, or no tools.
    """
    if tokenizer.chat_template:
        whole = opened(messages)
        if TOOLS in whole and not re.search(r"\btools\b", str(tokenizer.chat_template)):
            raise BadInput(
                "the chat template shows no tools, and the data define some",
                where="base_model.source",
                next="write one that does in the recipe, chat_template: |, or leave data.columns.tools out",
            )
        turns, tools = [_with_arguments(turn) for turn in whole["messages"]], whole.get(TOOLS)
        try:
            return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=asks))
        except Exception as error:  # a template is a program of somebody else: it may raise anything
            roles = ", ".join(turn["role"] for turn in turns[:ROLES]) + ", …" * (len(turns) > ROLES)
            why = " ".join(str(error).split())[:400] or type(error).__name__
            raise BadInput(
                f"the chat template does not take a conversation of {roles}: {why}",
                where="base_model.source",
                next="write another in the recipe, chat_template: |, or leave such conversations out of the data",
            ) from error
    end = {"assistant": tokenizer.eos_token}
    return "".join(f"{message['content']}{end.get(message['role'], chr(10))}" for message in messages)


def _with_arguments(turn: Message) -> Message:
    """A turn whose calls have their arguments as transformers' templates take them: OpenAI's format has a text there,
    which a template would write as one, in quotes."""
    if "tool_calls" not in turn:
        return turn
    calls = json.loads(json.dumps(turn["tool_calls"]))
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            with suppress(ValueError, RecursionError):
                function["arguments"] = json.loads(function["arguments"])
    return {**turn, "tool_calls": calls}


def tokens(tokenizer: Any, text: str, *, first: bool = True) -> list[int]:
    """Tokens of a rendered text. A chat template has written the marks that stand at the beginning of one.

    Args:
        first: whether it is the beginning.
    """
    begins = first and not tokenizer.chat_template
    return list(tokenizer(text, add_special_tokens=begins, verbose=False)["input_ids"])


def beginning(tokenizer: Any, text: str, most: int) -> str:
    """A text up to so many tokens of it."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text if len(offsets) <= most else text[: offsets[most - 1][1]] if most > 0 else ""


def conversation(tokenizer: Any, system: str | None, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the chat template gets them: with a word of the system, and without the tokenizer's own marks."""
    first = [turn for turn in messages[:2] if turn["role"] in FIRST]
    if system is not None and all(turn["role"] != "system" for turn in first):
        first.append({"role": "system", "content": system})
    rest = [turn for turn in messages if turn["role"] not in FIRST]
    return [_plain(tokenizer, turn) for turn in (*first, *rest)]


def _plain(tokenizer: Any, turn: Message) -> dict[str, Any]:
    """A turn without the tokenizer's own marks, in what it says and in what it calls."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {of(key): of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [of(inner) for inner in value]
        return plain(tokenizer, value) if isinstance(value, str) else value

    return {key: of(value) for key, value in turn.items()}


def fitting(tokenizer: Any, messages: Sequence[Message], most: int) -> list[Message]:
    """A conversation that leaves its oldest turns out, whole, where it has more tokens; what comes first stays."""
    told = [turn for turn in messages[:2] if turn["role"] in FIRST]
    rest = list(messages[len(told) :])

    def fits(start: int) -> bool:
        return len(tokens(tokenizer, prompt(tokenizer, [*told, *rest[start:]]))) <= most

    # By halves: one after the other would be quadratic, and a conversation may have thousands of turns.
    starts = [0, *(place for place, turn in enumerate(rest) if place and turn["role"] == "user")]
    return [*told, *rest[starts[bisect.bisect_left(starts[:-1], True, key=fits)] :]]


def asked(tokenizer: Any, system: str | None, messages: Sequence[Message], *, max_length: int, max_tokens: int) -> Any:
    """The conversation in which the assistant's turn comes next, with room for it."""
    whole, room = conversation(tokenizer, system, messages), max_length - max_tokens
    kept = fitting(tokenizer, whole, room)
    over = len(tokens(tokenizer, prompt(tokenizer, kept))) - room
    if over > 0 and kept[-1]["content"]:  # one turn that is too long by itself is cut at its end
        length = len(tokens(tokenizer, kept[-1]["content"], first=False))
        short = beginning(tokenizer, kept[-1]["content"], max(length - over - 2, 1))
        kept = [*kept[:-1], {**kept[-1], "content": short}]
    return kept


def of_conversation(
    tokenizer: Any, system: str | None, messages: Sequence[Message], *, max_length: int, max_tokens: int
) -> list[int]:
    """Tokens of a conversation, as a model is asked: the last of them where turns that have to stay are too long."""
    kept = asked(tokenizer, system, messages, max_length=max_length, max_tokens=max_tokens)
    return tokens(tokenizer, prompt(tokenizer, kept))[-(max_length - max_tokens) :]


class Asker:
    """Makes conversations of documents: what is asked fits, with room for the answer."""

    def __init__(self, tokenizer: Any, prompted: str, *, max_length: int, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._prompted = prompted
        around = tokens(tokenizer, prompt(tokenizer, self._asked("")))
        self.room = max_length - max_tokens - len(around) - 2
        """Tokens of a document at most; two more may come of how it joins what is around it."""

    def _asked(self, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._prompted.replace("{text}", text)}]

    def asked(self, text: str) -> list[dict[str, str]]:
        """The conversation in which a document's answer comes next."""
        return self._asked(beginning(self._tokenizer, plain(self._tokenizer, text), self.room))

    def answered(self, text: str, answer: str) -> list[dict[str, str]]:
        """The same with the answer."""
        return [*self.asked(text), {"role": "assistant", "content": plain(self._tokenizer, answer)}]

    def tokens(self, text: str) -> list[int]:
        """Tokens of a document, as a model is asked."""
        return tokens(self._tokenizer, prompt(self._tokenizer, self.asked(text)))


def text(tokenizer: Any, ids: Sequence[int]) -> str:
    """What an answer says, of its tokens up to the one that ends it."""
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
