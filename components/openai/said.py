"""Answers in OpenAI's form, whole and piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from components.openai.asked import Asked, Refused


@dataclass(frozen=True)
class Piece:
    """Some of an answer, as Triton sends it; the last has the reason why it ended, and the tokens."""

    version: int
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


class Stops:
    """Ends a text before the first of some words, and keeps back what may be the beginning of one."""

    def __init__(self, words: list[str]) -> None:
        self._words, self._kept, self.over = words, "", False

    def take(self, piece: str, *, last: bool = False) -> str:
        """What of the text up to here can be sent, beside what was."""
        if self.over:
            return ""
        self._kept += piece
        cuts = [at for word in self._words if (at := self._kept.find(word)) >= 0]
        if cuts:
            self.over, said = True, self._kept[: min(cuts)]
            return said
        held = 0 if last else max((self._held(word) for word in self._words), default=0)
        said, self._kept = self._kept[: len(self._kept) - held], self._kept[len(self._kept) - held :]
        return said

    def _held(self, word: str) -> int:
        return next((size for size in range(len(word) - 1, 0, -1) if self._kept.endswith(word[:size])), 0)


@dataclass(frozen=True)
class Form:
    """How one way to ask is answered."""

    id: str
    object: str
    chunk: str
    whole: Callable[[int, str, str | None], dict[str, Any]]
    part: Callable[[int, str | None, str | None], dict[str, Any]]
    """Of number, text (None: only that the answer begins) and the reason why it ended."""


def _choice(number: int, reason: str | None, **says: Any) -> dict[str, Any]:
    return {"index": number, **says, "logprobs": None, "finish_reason": reason}


def _chat_part(number: int, text: str | None, reason: str | None) -> dict[str, Any]:
    begin = {"role": "assistant", "content": ""}
    return _choice(number, reason, delta=begin if text is None else {"content": text} if text else {})


CHAT = Form(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    lambda number, text, reason: _choice(
        number, reason, message={"role": "assistant", "content": text, "refusal": None}
    ),
    _chat_part,
)
TEXT = Form(
    "cmpl",
    "text_completion",
    "text_completion",
    lambda number, text, reason: _choice(number, reason, text=text),
    lambda number, text, reason: _choice(number, reason, text=text or ""),
)


async def whole(first: Piece, rest: AsyncIterator[Piece]) -> tuple[str, Piece]:
    """The text of all pieces, and the last of them."""
    texts, last = [first.text], first
    async for last in rest:
        texts.append(last.text)
    return "".join(texts), last


async def streamed(
    request: web.Request, asked: Asked, form: Form, head: dict[str, Any], first: Piece, rest: AsyncIterator[Piece]
) -> web.StreamResponse:
    """Sends an answer as it comes."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    numbers, stops = range(asked.n or 1), Stops(asked.stops)
    head = {**head, "object": form.chunk}

    async def send(document: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(document).encode() + b"\n\n")

    async def parts(text: str | None, reason: str | None = None) -> None:
        for number in numbers:
            await send({**head, "choices": [form.part(number, text, reason)]})

    async def say(piece: Piece) -> None:
        if text := stops.take(piece.text, last=piece.finish_reason is not None):
            await parts(text)

    if form is CHAT:
        await parts(None)
    await say(first)
    last = first
    try:
        async for last in rest:
            await say(last)
    except Refused as error:  # too late for a status
        await send(error.document)
        return response
    await parts("", "stop" if stops.over else last.finish_reason)
    if asked.stream_options and asked.stream_options.include_usage:
        await send({**head, "choices": [], "usage": usage(last)})
    await response.write(b"data: [DONE]\n\n")
    return response


def usage(last: Piece) -> dict[str, int]:
    asked, said = last.prompt_tokens, last.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
