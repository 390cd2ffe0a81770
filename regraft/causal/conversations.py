"""A conversation as rows hold it: read in any of its formats, what is wrong with one, what is to be learned of it.

Each row's JSON is read in Python: a batch has 16,384 rows at most, and a conversation is dear to make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NONE, DAMAGED, ROLE, ORDER, EMPTY, ANSWER, RESULT, CALL, DAMAGED_CALL, DAMAGED_TOOLS, UNDEFINED = REASONS = (
    "no messages",
    "damaged messages",
    "unknown role",
    "turns out of order",
    "empty turn",
    "no answer at the end",
    "result without a call",
    "call without a result",
    "damaged call of a tool",
    "damaged tools",
    "call of a tool that is not defined",
)

ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant", "function": "tool"}
"""ShareGPT's names of roles, and OpenAI's former one."""
KNOWN = ("system", "user", "assistant", "tool")
TOOLS = "tools"
"""The role of a frozen conversation's first turn where tools are defined: their definitions, as JSON."""
KEPT = ("role", "content", "tool_calls", "name", "tool_call_id")
"""What counts of a message; the chat template sees nothing else."""
DEEPEST = 64
"""Lists and objects in each other, in what a call says: Python follows some hundreds, and fewer from deep within."""


class Row(NamedTuple):
    """A row as it is read: the conversation, its last turn, and what is said before it, where there is no problem."""

    text: str | None
    answer: str | None
    problem: str | None = None
    role: str | None = None
    said: str | None = None


def written(value: Any) -> str:
    """JSON of one form, without half a character, which UTF-8 has not."""
    return _whole(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def of_pair(prompt: str | None, completion: str | None) -> Row:
    """A row of a prompt and its completion."""
    if prompt is None and completion is None:
        return Row(None, None, NONE)
    turns = [{"role": "user", "content": prompt or ""}, {"role": "assistant", "content": completion or ""}]
    return judged(turns, json.dumps(turns))


def of_messages(value: str | None, *, then: Sequence[dict[str, Any]] = ()) -> Row:
    """A row of messages.

    Args:
        then: turns that follow them.
    """
    if value is None or not value.strip() or value.strip() in ("null", '""', "[]"):
        return Row(None, None, NONE)
    try:
        found = json.loads(value)
        found = json.loads(found) if isinstance(found, str) else found  # a column of JSON texts
    except (ValueError, RecursionError):
        return Row(value, None, DAMAGED)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return Row(value, None, DAMAGED)
    return judged([*found, *then], value)


def unanswered(messages: str | None, tools: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """The turns of a conversation after which the assistant's comes next, as they are frozen; or what is wrong with it.

    Args:
        tools: see `defined`.
    """
    row = defined(of_messages(messages, then=[{"role": "assistant", "content": "?"}]), tools)
    return ([], row.problem) if row.problem or row.text is None else (json.loads(row.text), None)


def defined(row: Row, value: str | None) -> Row:
    """The same row, with the tools that it may call before its first turn.

    Args:
        value: their definitions as OpenAI's format has them, a list in JSON; None where there are none.
    """
    if row.problem or row.text is None or value is None or not value.strip():
        return row
    try:
        tools = json.loads(value)
        tools = json.loads(tools) if isinstance(tools, str) and tools else tools  # a column of JSON texts
    except (ValueError, RecursionError):
        return Row(value, None, DAMAGED_TOOLS)
    if not tools:
        return row
    if not isinstance(tools, list) or not all(any(_names([tool])) for tool in tools) or deep(tools):
        return Row(value, None, DAMAGED_TOOLS)
    turns, answer = json.loads(row.text), json.loads(str(row.answer))
    if {name for turn in (*turns, answer) for name in called(turn)} - set(_names(tools)):
        return Row(row.text, None, UNDEFINED)
    return row._replace(text=written([{"role": TOOLS, "content": written(tools)}, *turns]))


def opened(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A frozen conversation as OpenAI's format has it: `messages`, and `tools` where there are some."""
    if turns and turns[0]["role"] == TOOLS:
        return {"messages": turns[1:], TOOLS: json.loads(turns[0]["content"])}
    return {"messages": turns}


def turns(conversation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The turns of a conversation in OpenAI's format, as they are frozen."""
    tools = conversation.get(TOOLS)
    return [*([{"role": TOOLS, "content": written(tools)}] if tools else []), *conversation["messages"]]


def judged(found: list[dict[str, Any]], value: str) -> Row:
    """A row of messages of either format; what is wrong with it, where something is."""
    turns = []
    for one in found:
        role = one.get("role", one.get("from"))
        said = one.get("content", one.get("value"))
        calls = one.get("tool_calls") or None
        if not isinstance(role, str) or not isinstance(said, str | None) or not isinstance(calls, list | None):
            return Row(value, None, DAMAGED)
        if not all(isinstance(one.get(key), str | int | None) for key in ("name", "tool_call_id")):
            return Row(value, None, DAMAGED)
        role = ROLES.get(role, role)
        if role not in KNOWN:
            return Row(value, None, ROLE, _whole(role))
        if calls and not (role == "assistant" and all(map(_calls, calls))):
            return Row(value, None, DAMAGED_CALL)
        turn = {**one, "role": role, "content": said or "", "tool_calls": calls}
        turns.append({key: turn[key] for key in KEPT if turn.get(key) is not None})
    problem = _problem(turns)
    if problem:
        return Row(value, None, problem)
    said = "\n".join(turn["content"] for turn in turns[:-1])
    return Row(written(turns[:-1]), written(turns[-1]), said=_whole(said))


def _calls(call: Any) -> bool:
    """Whether it calls a tool by a name, with arguments that are JSON where they are a text."""
    of = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(of, dict) or not isinstance(of.get("name"), str) or not of["name"].strip() or deep(call):
        return False
    arguments = of.get("arguments")
    if not isinstance(arguments, str) or not arguments.strip():  # which is how some spell that there are none
        return True
    try:
        return not deep(json.loads(arguments))
    except (ValueError, RecursionError):
        return False


def deep(value: Any) -> bool:
    """Whether there are more lists and objects in each other than `DEEPEST`."""
    level = [value]
    for _ in range(DEEPEST):
        parts = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for of in parts for one in of]
    return any(isinstance(one, dict | list) for one in level)


def _problem(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the order of turns, or with one of them."""
    if not turns:
        return NONE
    before = ""
    for number, turn in enumerate(turns):
        role = turn["role"]
        if not turn["content"].strip() and "tool_calls" not in turn:
            return EMPTY
        called_before = number > 0 and "tool_calls" in turns[number - 1]
        if role == "tool" and not (before == "tool" or called_before):
            return RESULT
        if called_before and role != "tool":
            return CALL
        follows = {"system": ("",), "user": ("", "system", "assistant"), "assistant": ("user", "tool")}
        if before not in follows.get(role, (before,)):
            return ORDER
        before = role
    return None if before == "assistant" else ANSWER


def content(answer: str) -> str:
    """What a turn says, of its JSON; calls of tools as JSON."""
    turn = json.loads(answer)
    calls = turn.get("tool_calls")
    return turn["content"] if not calls else f"{turn['content']}{written(calls)}"


def pieces(rows: Any) -> list[list[list[str]]]:
    """What a model is to learn of each frozen row: what each of the assistant's turns says, and the tools it calls."""
    pairs = zip(rows["text"].to_pylist(), rows["answer"].to_pylist(), strict=True)
    talks = ([*json.loads(text), json.loads(answer)] for text, answer in pairs)
    return [[[turn["content"], *called(turn)] for turn in talk if turn["role"] == "assistant"] for talk in talks]


def roles(texts: Any, answers: Any) -> list[list[str]]:
    """Who speaks in each turn of frozen conversations, the last one included."""
    pairs = zip(texts.to_pylist(), answers.to_pylist(), strict=True)
    talks = ([*opened(json.loads(text))["messages"], json.loads(answer)] for text, answer in pairs)
    return [[str(turn["role"]) for turn in talk] for talk in talks]


def transcript(text: str) -> str:
    """A frozen conversation as people read it."""
    whole = opened(json.loads(text))
    tools = [f"{TOOLS}: {', '.join(_names(whole[TOOLS]))}"] if TOOLS in whole else []
    return "\n".join([*tools, *(f"{turn['role']}: {turn['content']}" for turn in whole["messages"])])


def called(turn: Mapping[str, Any]) -> list[str]:
    """The names of the tools that a turn calls."""
    return _names(turn.get("tool_calls", ()))


def _names(functions: Sequence[Any]) -> list[str]:
    """The names in calls of tools, or in definitions."""
    found = [each.get("function", each) for each in functions if isinstance(each, dict)]
    return [str(each.get("name", "")) for each in found if isinstance(each, dict)]
