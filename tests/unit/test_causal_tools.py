"""Conversations whose assistant calls tools: what the template shows of them, and what is learned."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from regraft import causal, tasks
from regraft.causal import asking, prompts
from regraft.causal.conversations import turns
from regraft.errors import BadInput
from tests import llamas
from tests.unit.test_causal import TALK, declared, lesson, tuned


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.base(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> causal.Causal:
    return tuned(base, tmp_path_factory.mktemp("model"))


def test_a_call_of_a_tool_cannot_end_its_turn_either(model: causal.Causal) -> None:
    calls = [{"function": {"name": "find", "arguments": {"q": "x<|im_end|>y"}}}]
    (turn,) = asking.conversation(model.tokenizer, None, [{"role": "assistant", "content": "", "tool_calls": calls}])
    assert turn["tool_calls"][0]["function"]["arguments"] == {"q": "x y"}


def test_a_mark_of_other_letters_is_taken_out_of_calls_too_and_an_empty_one_is_none() -> None:
    """As DeepSeek's are, which JSON spells otherwise; some tokenizers have an unknown token of no letters."""

    class Tokenizer:
        all_special_tokens = ("<\uff5cend\uff5c>", "")
        added_tokens_decoder = MappingProxyType[int, str]({})

    tokenizer = Tokenizer()
    calls = [{"function": {"name": "find", "arguments": {"<\uff5cend\uff5c>": ["x<\uff5cend\uff5c>y", 1, None]}}}]
    turn = {"role": "assistant", "content": "a<\uff5cend\uff5c>b", "tool_calls": calls}
    (plain,) = asking.conversation(tokenizer, None, [turn])
    assert plain["content"] == "a b"
    assert plain["tool_calls"][0]["function"]["arguments"] == {" ": ["x y", 1, None]}


WITH_CALLS = llamas.TEMPLATE.replace(
    "}}<|im_end|>", "}}{{ message.tool_calls | tojson if message.tool_calls }}<|im_end|>"
)


@pytest.mark.parametrize("most", [12, 30, 45, 60, 75, 90, 1000])
@pytest.mark.parametrize("turns", [1, 4])
def test_calls_are_shown_as_they_are_wherever_a_row_is_cut(model: causal.Causal, most: int, turns: int) -> None:
    import copy

    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = WITH_CALLS
    call = {"role": "assistant", "content": "I look", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}
    result, last = {"role": "tool", "content": "shelf"}, {"role": "assistant", "content": "a great long plot"}
    talk: list[asking.Message] = [TALK[1], call, result, last] * 2
    said = [["I look", "find"], ["a great long plot"]] * 2
    row = prompts.cut(prompts.encoded(tokenizer, talk[4 if turns == 1 else 0 :]), most)
    assert prompts.mask(tokenizer, [row], [said]).wrong is None
    tokenizer.chat_template = llamas.TEMPLATE
    whole = prompts.encoded(tokenizer, talk)
    assert prompts.mask(tokenizer, [whole], [said]).wrong, "calls are left out"


def test_a_template_that_leaves_calls_of_tools_out_is_refused(base: Path) -> None:
    call = '{"role":"assistant","content":"","tool_calls":[{"function":{"name":"weather","arguments":{}}}]}'
    with pytest.raises(BadInput, match=r"no token to learn"):
        lesson("chat", base, [{"text": '[{"role":"user","content":"rain"}]', "answer": call}] * 3)


FIND = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
SHOWS_TOOLS = (
    "{% if tools %}<tools>{{ tools | map(attribute='function.name') | join }}</tools>{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}{% for call in turn.tool_calls %}"
    "{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_template_gets_tools_and_arguments_as_objects_and_keeps_tools_as_long_as_it_asks(base: Path) -> None:
    _, tokenizer = tasks.of("chat").for_training(declared("chat", base), base)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": '{"q": 1}'}}]}
    talk = [*TALK[1:3], TALK[3], call, {"role": "tool", "content": "shelf 4"}, TALK[4]]
    told = asking.conversation(tokenizer, "be short", turns({"messages": talk, "tools": FIND}))
    assert [turn["role"] for turn in told[:3]] == ["tools", "system", "user"]
    with pytest.raises(BadInput, match="the chat template shows no tools"):
        asking.prompt(tokenizer, told)
    tokenizer.chat_template = SHOWS_TOOLS
    whole = asking.prompt(tokenizer, told)
    assert whole.startswith("<tools>find</tools><|im_start|>system\nbe short<|im_end|>")
    assert '{"q": 1}<|im_end|>' in whole, "an object, not a text in quotes"
    row = prompts.encoded(tokenizer, told)
    learned = tokenizer.decode([i for i, of in zip(row.ids, row.trained, strict=True) if of])
    assert "find" not in learned
    assert '{"q": 1}' in learned
    most = len(asking.tokens(tokenizer, whole)) - 1
    shorter = asking.fitting(tokenizer, told, most)
    assert shorter[:2] == told[:2]
    assert len(shorter) == len(told) - 2, "the oldest question and its answer are left out"
