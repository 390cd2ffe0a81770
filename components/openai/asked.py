"""What clients may ask, and what they are told where they ask something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError


class Refused(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(self, status: int, what: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(what)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.document = {"error": {"message": what, "type": kind, "param": param, "code": code}}


def _only(value: float) -> Callable[[float | None], float | None]:
    def check(asked: float | None) -> float | None:
        if asked not in (None, value):
            raise ValueError(f"answers are greedy, as when the model was judged: leave it out, or say {value:g}")
        return asked

    return check


class StreamOptions(BaseModel, extra="forbid"):
    include_usage: bool = False
    include_obfuscation: bool = False


class Format(BaseModel, extra="forbid"):
    type: Literal["text"]


class Asked(BaseModel, extra="forbid"):
    """What both ways to ask have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = 1
    """How often the answer is given: a greedy one is the same each time."""
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    temperature: Annotated[float | None, AfterValidator(_only(0))] = None
    top_p: Annotated[float | None, AfterValidator(_only(1))] = None
    presence_penalty: Annotated[float | None, AfterValidator(_only(0))] = None
    frequency_penalty: Annotated[float | None, AfterValidator(_only(0))] = None
    seed: int | None = None
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Chat(Asked):
    messages: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: Literal["auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    logprobs: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class Completion(Asked):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


Body = TypeVar("Body", bound=Asked)


def read(body: type[Body], content: bytes) -> Body:
    """What is asked. Raises Refused, which names what is wrong."""
    try:
        return body.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        what = "is not taken here" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise Refused(400, f"{param}: {what}" if param else what, param=param) from error


def plain(message: dict[str, JsonValue], number: int) -> dict[str, Any]:
    """A message whose content is text, in the roles that chat templates know. Raises Refused."""
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise Refused(400, "only parts of text are taken", param=f"messages.{number}.content")
        content = "".join(part["text"] for part in content)  # type: ignore[call-overload, index, misc]
    role = "system" if message.get("role") == "developer" else message.get("role")
    return {**message, "role": role, "content": content}
