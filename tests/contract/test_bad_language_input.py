"""What people give a language model that cannot be trained: one sentence each, and an exit that says not to retry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from components.validate import contract, inputs, work
from regraft import pipeline, recipe, tasks
from regraft.errors import BadInput
from regraft.step import _run
from tests import llamas
from tests.worlds import RUN, Tiny, of

Change = Callable[[Tiny], Any]


@pytest.fixture
def world(bases: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Tiny]:
    """A world of a task, with a base model of its own."""

    def made(task: str) -> Tiny:
        base = shutil.copytree(bases(task), tmp_path / "base")
        world = Tiny(tmp_path / "world", base, task=task)
        world.put(of(task).rows(60))
        return world

    return made


def rows(change: Callable[[dict[str, Any]], dict[str, Any]], count: int = 60) -> Change:
    """Each row of the data is another one."""
    return lambda world: world.put([change(row) for row in of(world.task).rows(count)])


def template(text: str | bytes) -> Change:
    """The base model has another chat template."""
    content = text.encode() if isinstance(text, str) else text
    return lambda world: (world.base / "chat_template.jinja").write_bytes(content)


def tokenizer(**settings: Any) -> Change:
    """The base model's tokenizer is told otherwise; None takes a setting away."""

    def change(world: Tiny) -> None:
        file = world.base / "tokenizer_config.json"
        said = {**json.loads(file.read_text()), **settings}
        file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))

    return change


def declared(before: str, after: str) -> Change:
    """The recipe says otherwise."""

    def change(world: Tiny) -> None:
        text = world.recipe.read_text()
        assert before in text
        world.recipe.write_text(text.replace(before, after))

    return change


def spoken(content: Any, at: int = -1) -> Change:
    """A turn of each conversation says something else."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        row["messages"][at]["content"] = content
        return row

    return rows(change)


def both(one: Change, other: Change) -> Change:
    return lambda world: [change(world) for change in (one, other)]


def file(content: str) -> Change:
    return lambda world: world.data.write_text(content)


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
LONG = "a great film " * 300
KINDS: dict[str, tuple[str, Change, int, str]] = {
    "chat: a base model without a mark that ends": ("chat", tokenizer(eos_token=None), 20, "no token that ends a text"),
    "chat: a template that ends in the middle": ("chat", template("{% for m in messages %}"), 20, "does not take"),
    "chat: a template that takes no word of the system": (
        "chat",
        both(template(NO_SYSTEM + llamas.TEMPLATE), lambda world: world.declare("system: Be brief.")),
        20,
        "System role not supported",
    ),
    "chat: a template that divides by zero": (
        "chat",
        template("{{ 1 / 0 }}" + llamas.TEMPLATE),
        20,
        "division by zero",
    ),
    "chat: a template that counts for ever": (
        "chat",
        template("{% for i in range(10000000) %}{% endfor %}" + llamas.TEMPLATE),
        20,
        "Range too big",
    ),
    "chat: templates of which none is the default": (
        "chat",
        both(
            lambda world: (world.base / "chat_template.jinja").unlink(),
            tokenizer(chat_template=[{"name": "rag", "template": "x"}]),
        ),
        20,
        "no default",
    ),
    "chat: a system's word longer than the context": (
        "chat",
        lambda world: world.declare(f"system: {LONG}"),
        10,
        "untaught: ",
    ),
    "chat: results of tools longer than the context": (
        "chat",
        rows(
            lambda row: {
                "messages": [
                    row["messages"][0],
                    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find"}}]},
                    {"role": "tool", "content": LONG},
                    {"role": "tool", "content": LONG},
                    row["messages"][1],
                ]
            }
        ),
        10,
        "untaught: ",
    ),
    "chat: a context shorter than an answer": ("chat", declared("max_length: 96", "max_length: 16"), 20, "no room for"),
    "chat: only conversations that the assistant begins": (
        "chat",
        rows(lambda row: {"messages": row["messages"][1:]}),
        10,
        "the data breaks the contract",
    ),
    "chat: nobody's turns": ("chat", rows(lambda row: {"messages": []}), 10, "the data breaks the contract"),
    "chat: content in parts": ("chat", spoken([{"type": "text", "text": "x"}]), 10, "damaged messages"),
    "chat: answers of another encoding": ("chat", spoken("caf\ufffd"), 10, "encoding damage"),
    "chat: answers of control characters": ("chat", spoken("good\0story"), 10, "encoding damage"),
    "chat: answers of nothing but marks": ("chat", spoken("<|im_end|>"), 10, "a mark of the tokenizer in it"),
    "chat: one row": ("chat", rows(lambda row: row, 1), 10, "splits: "),
    "chat: no row": ("chat", file("\n"), 20, "has no column 'messages'; it has none"),
    "chat: no column": ("chat", file('{"message": []}\n'), 20, "did you mean 'message'"),
    "preferences: a base model without a mark that ends": (
        "preferences",
        tokenizer(eos_token=None),
        20,
        "no token that ends a text",
    ),
    "preferences: both answers are the same": (
        "preferences",
        rows(lambda row: {**row, "rejected": row["chosen"] + " "}),
        10,
        "both answers are the same",
    ),
    "preferences: answers that are lists of nothing": (
        "preferences",
        rows(lambda row: {**row, "chosen": "[ ]"}),
        10,
        "no chosen answer",
    ),
    "preferences: prompts longer than the context": (
        "preferences",
        lambda world: world.declare(f"system: {LONG}"),
        10,
        "untaught: ",
    ),
    "summarization: a base model without a mark that ends": (
        "summarization",
        tokenizer(eos_token=None),
        20,
        "no token that ends a text",
    ),
    "summarization: empty summaries": ("summarization", rows(lambda row: {**row, "summary": " "}), 10, "no summary"),
    "summarization: a prompt longer than the context": (
        "summarization",
        declared('prompt: "{text}"', f'prompt: "{LONG}{{text}}"'),
        20,
        "leave 0 for the document",
    ),
    "summarization: summaries of another encoding": (
        "summarization",
        rows(lambda row: {**row, "summary": "cafÃ©"}),
        10,
        "encoding damage",
    ),
    "pretraining: documents of one character": (
        "pretraining",
        rows(lambda row: {"text": row["text"][0]}),
        10,
        "the data breaks the contract",
    ),
    "pretraining: documents without a letter": ("pretraining", rows(lambda row: {"text": "5 | 3"}), 10, "no letter"),
    "pretraining: documents that are numbers": (
        "pretraining",
        file('{"text": 5}\n'),
        20,
        "text is expected",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_validate_ends_with_one_sentence(
    kind: str, world: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    task, change, exit_code, sentence = KINDS[kind]
    made = world(task)
    change(made)
    # In this process, where libraries are imported once for all tests.
    monkeypatch.setenv("REGRAFT_SCRATCH", str(made.folder))
    monkeypatch.setattr(contract, "judge", lambda: nullcontext(contract.judged))
    code = _run(pipeline.step("validate"), made.recipe, made.store.url, RUN, inputs, work, None)
    said = "".join(capfd.readouterr())
    assert code == exit_code, said
    assert "Traceback" not in said
    assert sentence in said


DAMAGED: dict[str, Change] = {
    "without a mark that ends": tokenizer(eos_token=None),
    "with a tokenizer that is none": lambda world: (world.base / "tokenizer.json").write_text('{"model": {}}'),
    "with settings that are none": lambda world: (world.base / "tokenizer_config.json").write_text("[]"),
    "with a template of another encoding": template(llamas.TEMPLATE.encode() + b"{# caf\xe9 #}"),
}


@pytest.mark.parametrize("task", ["chat", "pretraining"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_base_model_that_only_training_looks_at_ends_it_with_one_sentence(
    kind: str, task: str, world: Callable[[str], Tiny], tmp_path: Path
) -> None:
    made = world(task)
    DAMAGED[kind](made)
    with pytest.raises(BadInput) as error:
        tasks.of(task).for_training(recipe.parse(made.recipe.read_text()), tmp_path)
    assert str(error.value.where).startswith(str(made.base))
    assert error.value.next
