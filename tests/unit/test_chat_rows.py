"""What a conversation is, in whatever format it comes, and what is wrong with one."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from regraft.causal.conversations import opened, transcript, turns
from regraft.tasks.chat.recipe import Data
from regraft.tasks.chat.rows import rows

MESSAGES = Data.model_validate({"source": "x", "columns": {"messages": "m"}})
PAIR = Data.model_validate({"source": "x", "columns": {"prompt": "p", "completion": "c"}})
USER, SAID = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "shelf 4"}
SYSTEM = {"role": "system", "content": "Be short."}


def calling(**of: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"function": of}]}


DEEP = json.loads("[" * 300 + "]" * 300)


def read(*messages: Any) -> tuple[str | None, str | None, str | None]:
    """Text, answer and problem of one row."""
    found = rows({"messages": pa.array([m if isinstance(m, str) else json.dumps(m) for m in messages])}, MESSAGES)
    problem = next((reason for reason, applies in found.problems if applies[0]), None)
    return found.text[0].as_py(), found.target["answer"][0].as_py(), problem


def test_one_conversation_is_one_row_in_every_format() -> None:
    openai, _, _ = read([USER, SAID]), None, None
    text, answer, problem = openai
    assert problem is None
    assert json.loads(text or "") == [USER]
    assert json.loads(answer or "") == SAID
    sharegpt = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": SAID["content"]}]
    assert read(sharegpt) == openai
    assert read(json.dumps(json.dumps([USER, SAID]))) == openai, "a column of JSON texts"
    pair = rows({"prompt": pa.array([USER["content"]]), "completion": pa.array([SAID["content"]])}, PAIR)
    assert (pair.text[0].as_py(), pair.target["answer"][0].as_py()) == (text, answer)
    assert pair.shown[0].as_py() == "Here."


def test_keys_that_no_template_sees_make_no_other_row() -> None:
    assert read([{**USER, "id": 7, "weight": None}, SAID]) == read([USER, SAID])


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, USER, SAID],
        [USER, SAID, USER, SAID],
        [USER, CALL, RESULT, SAID],
        [USER, CALL, RESULT, RESULT, SAID],
        [USER, CALL],
        [USER, calling(name="find", arguments={"q": 1})],
        [USER, calling(name="find", arguments="")],
        [USER, {"role": "assistant", "content": "", "tool_calls": [{"name": "find", "arguments": {}}]}],
        [USER, {**CALL, "meta": DEEP}],
    ],
)
def test_turns_that_follow_each_other_are_a_conversation(messages: list[Any]) -> None:
    assert read(messages)[2] is None


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("", "no messages"),
        ("null", "no messages"),
        ("[]", "no messages"),
        ("{", "damaged messages"),
        ('"hello"', "damaged messages"),
        ("[" * 100_000, "damaged messages"),
        ({"role": "user"}, "damaged messages"),
        ([1, 2], "damaged messages"),
        ([{"role": "user", "content": ["x"]}, SAID], "damaged messages"),
        ([{"content": "x"}, SAID], "damaged messages"),
        ([USER, {**SAID, "tool_calls": "find"}], "damaged messages"),
        ([{**USER, "name": ["x"]}, SAID], "damaged messages"),
        ([USER, CALL, {**RESULT, "tool_call_id": {}}, SAID], "damaged messages"),
        ([{"role": "owner", "content": "x"}, SAID], "unknown role"),
        ([SAID], "turns out of order"),
        ([SAID, USER, SAID], "turns out of order"),
        ([USER, USER, SAID], "turns out of order"),
        ([USER, SAID, SAID], "turns out of order"),
        ([USER, SYSTEM, SAID], "turns out of order"),
        ([SYSTEM, SYSTEM, USER, SAID], "turns out of order"),
        ([{"role": "user", "content": "  "}, SAID], "empty turn"),
        ([USER, {"role": "assistant", "content": None}], "empty turn"),
        ([{"role": "\ud800", "content": "x"}, SAID], "unknown role"),
        ([{**CALL, "role": "user"}, SAID], "damaged call of a tool"),
        ([USER, {**SAID, "tool_calls": [1]}], "damaged call of a tool"),
        ([USER, calling()], "damaged call of a tool"),
        ([USER, calling(name=["find"])], "damaged call of a tool"),
        ([USER, calling(name=" ")], "damaged call of a tool"),
        ([USER, calling(name="find", arguments="{")], "damaged call of a tool"),
        ([USER, calling(name="find", arguments="[" * 5000)], "damaged call of a tool"),
        ([USER, calling(name="find", arguments=DEEP)], "damaged call of a tool"),
        ([USER, CALL, USER, SAID], "call without a result"),
        ([USER, CALL, SAID], "call without a result"),
        ([USER, SAID, USER], "no answer at the end"),
        ([USER], "no answer at the end"),
        ([USER, RESULT, SAID], "result without a call"),
        ([RESULT, SAID], "result without a call"),
    ],
)
def test_what_is_no_conversation_is_set_aside_with_its_reason(messages: Any, problem: str) -> None:
    assert read(messages)[2] == problem


def test_half_a_character_is_replaced() -> None:
    text, _, problem = read('[{"role":"user","content":"a\\ud800b"},{"role":"assistant","content":"x"}]')
    assert problem is None
    assert json.loads(text or "")[0]["content"] == "a?b"


WITH_TOOLS = Data.model_validate({"source": "x", "columns": {"messages": "m", "tools": "t"}})
FIND = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def with_tools(tools: Any, *messages: Any) -> tuple[str | None, str | None]:
    """Text and problem of one row."""
    table = {"messages": pa.array([json.dumps(messages)]), "tools": pa.array([tools], pa.string())}
    found = rows(table, WITH_TOOLS)
    return found.text[0].as_py(), next((reason for reason, applies in found.problems if applies[0]), None)


@pytest.mark.parametrize("tools", [[FIND], [FIND["function"]], json.dumps([FIND])])
def test_tools_come_before_the_first_turn(tools: Any) -> None:
    text, problem = with_tools(json.dumps(tools), USER, CALL, RESULT, SAID)
    assert problem is None
    first, *others = json.loads(text or "")
    assert others == json.loads(read([USER, CALL, RESULT, SAID])[0] or "")
    whole = opened(json.loads(text or ""))
    assert whole["messages"] == others
    assert [tool.get("function", tool)["name"] for tool in whole["tools"]] == ["find"]
    assert turns(whole) == [first, *others]
    assert transcript(text or "").splitlines()[:2] == ["tools: find", "user: Where is it?"]


@pytest.mark.parametrize("tools", [None, "", "null", "[]", '""'])
def test_a_row_without_tools_is_what_it_is_without_the_column(tools: str | None) -> None:
    assert with_tools(tools, USER, SAID) == (read([USER, SAID])[0], None)


@pytest.mark.parametrize(
    "tools",
    [
        *("{", "7", '"find"', '[{"type": "function"}]', '["find"]', "[" * 100_000, '{"a": 1}'),
        json.dumps([{"name": "find", "parameters": DEEP}]),
    ],
)
def test_tools_that_are_none_are_named(tools: str) -> None:
    assert with_tools(tools, USER, SAID)[1] == "damaged tools"


def test_a_call_of_a_tool_that_is_not_defined_is_named() -> None:
    other = {"type": "function", "function": {"name": "order"}}
    assert with_tools(json.dumps([other]), USER, CALL, RESULT, SAID)[1] == "call of a tool that is not defined"
    assert with_tools(json.dumps([other]), USER, CALL)[1] == "call of a tool that is not defined"
