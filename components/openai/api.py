"""Takes requests, asks Triton and answers."""

from __future__ import annotations

import ipaddress
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from components.openai.asked import Asked, Chat, Completion, Refused, plain, read
from components.openai.keys import Catalogue, Keys, Served
from components.openai.said import CHAT, TEXT, Form, Piece, Stops, streamed, usage, whole
from regraft import views

LARGEST = 1 << 20
"""Bytes of a request, as Triton's front takes them."""
LONGEST_LINE = 1 << 20
SECONDS = 600
"""How long Triton may say nothing."""
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
"""Where a person tries a model."""


POLICY = "; ".join(
    [
        *(f"{what} 'none'" for what in ("default-src", "base-uri", "form-action", "frame-ancestors")),
        *(f"{of}-src {views.by_digest(text)}" for of, text in re.findall(r"(?s)<(script|style)>(.*?)</\1>", PAGE)),
        "connect-src 'self'",
    ]
)
"""What a browser lets it do: run its own script, in its own style, and ask this server."""


class Api:
    """What is answered."""

    def __init__(self, *, catalogue: Catalogue, triton: str, keys: Keys) -> None:
        self.catalogue, self.triton, self.keys = catalogue, triton, keys

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST, middlewares=[_in_openais_form, self._for_whom])
        application.cleanup_ctx.append(self._asking)
        application.router.add_get("/", self.page)
        application.router.add_get("/health", self.health)
        application.router.add_get("/v1/models", self.models)
        application.router.add_get("/v1/models/{id}", self.model)
        application.router.add_post("/v1/chat/completions", self.chat)
        application.router.add_post("/v1/completions", self.completion)
        return application

    async def _asking(self, application: web.Application) -> AsyncIterator[None]:
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            timeout=patience, connector=connector, read_bufsize=LONGEST_LINE
        ) as self.session:
            yield

    @web.middleware
    async def _for_whom(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        """Without keys, a page of another place must not ask in the name of who looks at it."""
        if not self.keys and not alone(request.url.host or ""):
            raise Refused(403, f"without keys, only this machine is answered, and not as {request.url.host}")
        if request.method == "POST" and request.content_type != "application/json":
            raise Refused(415, "what is asked has to be JSON: send Content-Type: application/json")
        response: web.StreamResponse = await handler(request)
        return response

    async def page(self, request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=PAGE, content_type="text/html", headers=headers)

    async def health(self, request: web.Request) -> web.Response:
        """Whether Triton is ready."""
        try:
            async with self.session.get(f"{self.triton}/v2/health/ready") as answer:
                return web.json_response({}, status=200 if answer.status == 200 else 503)
        except aiohttp.ClientError:
            return web.json_response({}, status=503)

    async def models(self, request: web.Request) -> web.Response:
        may = self.keys.may(request.headers.get("Authorization", ""))
        listed = [one for name in self.catalogue.names() if may(name) for one in self._listed(name)]
        return web.json_response({"object": "list", "data": listed})

    async def model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        listed = self._listed(self._served(request, wanted).name)
        return web.json_response(next(one for one in listed if one["id"] == wanted))

    def _listed(self, name: str) -> list[dict[str, Any]]:
        versions = self.catalogue.versions(name)
        ids = [(name, versions[0]), *((each.id, each) for each in versions)] if versions else []
        return [{"id": known, "object": "model", "created": of.since, "owned_by": "regraft"} for known, of in ids]

    def _served(self, request: web.Request, model: str) -> Served:
        """The version that `model` means. Raises Refused, which does not tell what there is from what is forbidden."""
        may = self.keys.may(request.headers.get("Authorization", ""))
        name, at, version = model.partition("@")
        if may(name) and name in self.catalogue.names():
            for each in self.catalogue.versions(name):
                if not at or version == str(each.version):
                    return each
        raise Refused(404, f"the model {model!r} does not exist, or this key may not ask it", code="model_not_found")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = read(Chat, await request.read())
        served = self._served(request, asked.model)
        inputs: dict[str, Any] = {"max_tokens": asked.max_completion_tokens or asked.max_tokens}
        messages = [plain(message, number) for number, message in enumerate(asked.messages)]
        if served.asks == "messages":
            inputs["messages"] = json.dumps(messages)
            inputs["tools"] = json.dumps(asked.tools) if asked.tools else None
        elif len(messages) == 1 and messages[0].get("role") == "user":
            inputs["text"] = messages[0]["content"]
        else:
            raise Refused(400, f"{served.name} takes one message: the user's, with the document", param="messages")
        return await self._answered(request, served, asked, inputs, CHAT)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        asked = read(Completion, await request.read())
        served = self._served(request, asked.model)
        if served.asks != "text":
            raise Refused(400, f"{served.name} takes part in conversations: ask /v1/chat/completions", param="model")
        text = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
        return await self._answered(request, served, asked, {"text": text, "max_tokens": asked.max_tokens}, TEXT)

    async def _answered(
        self, request: web.Request, served: Served, asked: Asked, inputs: dict[str, Any], form: Form
    ) -> web.StreamResponse:
        exact = served.version if "@" in asked.model else None
        async with aclosing(self._pieces(served.name, exact, inputs)) as pieces:
            first = await anext(pieces)  # until it is there, what is wrong has a status of its own
            head = {"id": f"{form.id}-{uuid.uuid4().hex}", "created": int(time.time())}
            head["model"] = f"{served.name}@{first.version}"
            if asked.stream:
                return await streamed(request, asked, form, head, first, pieces)
            text, last = await whole(first, pieces)
        stops = Stops(asked.stops)
        said = stops.take(text, last=True)
        reason = "stop" if stops.over else last.finish_reason
        choices = [form.whole(number, said, reason) for number in range(asked.n or 1)]
        return web.json_response({**head, "object": form.object, "choices": choices, "usage": usage(last)})

    async def _pieces(self, name: str, version: int | None, inputs: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        """What Triton says, piece by piece. Raises Refused. Triton sees it when nobody reads on."""
        place = f"{self.triton}/v2/models/{name}" + (f"/versions/{version}" if version else "")
        body = {key: value for key, value in inputs.items() if value is not None} | {"stream": True}
        ended = False
        try:
            async with self.session.post(f"{place}/generate_stream", json=body) as answer:
                if answer.status != 200:
                    raise _of_triton(answer.status, await answer.text())
                async for line in answer.content:
                    if line.startswith(b"data:"):
                        piece = _piece(json.loads(line[5:]))
                        ended = piece.finish_reason is not None
                        yield piece
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Refused(503, "the server of the models does not answer: ask again", code="unavailable") from error
        if not ended:
            raise Refused(503, "the answer broke off: ask again", code="unavailable")


def _piece(document: dict[str, Any]) -> Piece:
    """Raises Refused where it is an error."""
    if error := document.get("error"):
        raise _of_triton(400, str(error))
    counts = {name: int(document.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")}
    reason = document.get("finish_reason") or None
    return Piece(int(document["model_version"]), str(document.get("text", "")), reason, **counts)


def _of_triton(status: int, says: str) -> Refused:
    """What Triton refuses, in OpenAI's form."""
    try:
        what = str(json.loads(says.removeprefix("data:"))["error"])
    except (ValueError, KeyError, TypeError):
        what = says
    if status >= 500 or re.search(r"unknown model|not ready|has no available versions", what):
        return Refused(503, "the model is not served at this moment: ask again", code="unavailable")
    return Refused(status, what)


@web.middleware
async def _in_openais_form(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except Refused as error:
        later = {"Retry-After": "1"} if error.status == 503 else {}
        return web.json_response(error.document, status=error.status, headers=later)
    except web.HTTPException as error:  # no such page, too large a body
        refused = Refused(error.status, error.reason)
        return web.json_response(refused.document, status=error.status)
    return response


def alone(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
