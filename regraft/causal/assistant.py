"""An assistant: a conversation in, its next turn out; what the tasks share whose models take part in conversations."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regraft import causal, escaped
from regraft.causal import Assistant, Causal, answering, asking, package, prompts
from regraft.causal.asking import Message
from regraft.causal.conversations import opened, turns
from regraft.causal.prompts import Encoded
from regraft.errors import BadInput

EXAMPLE = {"messages": [{"role": "user", "content": "My parcel has not come. What can I do?"}]}
"""How MLflow's model is asked."""


def for_training(recipe: Assistant, folder: Path) -> tuple[Any, Any]:
    """The base model with a fresh adapter, and its tokenizer. Raises BadInput where it has no chat template."""
    model, tokenizer = causal.for_training(recipe, folder)
    templated(recipe, tokenizer)
    return model, tokenizer


def templated(recipe: Assistant, tokenizer: Any) -> None:
    """Gives a base model's tokenizer the recipe's chat template, where there is one. Raises BadInput without any."""
    tokenizer.chat_template = recipe.chat_template or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise BadInput(
            "the tokenizer has no chat template, which says how turns are told apart",
            where=recipe.base_model.source,
            next="take a base model made for chat, or write one in the recipe: chat_template: |",
        )


def load(recipe: Assistant, files: Path, folder: Path) -> Causal:
    """The model of a finetune, from the files it published."""
    return causal.load(recipe, files, folder, told=recipe.system)


def space(recipe: Assistant) -> dict[str, int]:
    """How many tokens there are for a conversation with its answer, and of those for the answer.

    Raises:
        BadInput: an answer may be as long as all.
    """
    longest, answer = recipe.training.max_length, recipe.generation.max_tokens
    if longest < answer + 8:
        raise BadInput(
            f"{longest} tokens leave no room for a question before an answer of {answer}",
            where="training.max_length",
            next="raise training.max_length, or lower generation.max_tokens",
        )
    return {"max_length": longest, "max_tokens": answer}


def asks(model: Causal, conversations: Iterable[Sequence[Message]]) -> list[list[int]]:
    """Tokens of conversations, as a model is asked."""
    return [asking.of_conversation(model.tokenizer, model.told, each, **model.room) for each in conversations]


def taught(tokenizer: Any, system: str | None, row: tuple[str, str], *, max_length: int, max_tokens: int) -> Encoded:
    """A row's conversation with its last turn, as tokens of which the assistant's are learned, up to max_length.

    Args:
        row: text and answer, as they are frozen.
    """
    return prompts.cut(uncut(tokenizer, system, row, max_length=max_length, max_tokens=max_tokens), max_length)


def uncut(tokenizer: Any, system: str | None, row: tuple[str, str], *, max_length: int, max_tokens: int) -> Encoded:
    """What `taught` cuts."""
    kept = asking.asked(tokenizer, system, json.loads(row[0]), max_length=max_length, max_tokens=max_tokens)
    last = asking.conversation(tokenizer, None, [json.loads(row[1])])
    return prompts.encoded(tokenizer, [*kept, *last])


def card(recipe: Assistant) -> str:
    """A section of the model card: how it is asked."""
    told = f"It is told before: {escaped.code(recipe.system)}\n\n" if recipe.system else ""
    return (
        f"## How it is asked\n\nBy the base model's chat template. {told}"
        f"Conversations of more than {recipe.training.max_length - recipe.generation.max_tokens} tokens lose their "
        f"oldest turns; an answer may have {recipe.generation.max_tokens}. It answers greedily. `trained_on.txt` shows "
        "three rows as it saw them."
    )


def said(model: Causal, inputs: list[dict[str, Any]]) -> list[str]:
    """What a model answers to conversations, each with its `messages`, and with `tools` where it may call some."""
    return [answer.text for answer in answering.generated(model, asks(model, map(turns, inputs)))]


def completions(model: Causal, requests: Sequence[Mapping[str, Any]], *, name: str) -> list[dict[str, Any]]:
    """What a model answers to requests, in OpenAI's form of chat completions.

    It answers greedily, whatever a request says of sampling; the least `max_tokens` of all may shorten answers.

    Args:
        name: what the model is called.
    """
    asked = asks(model, map(turns, requests))
    most = min(int(request.get("max_tokens") or model.max_tokens) for request in requests)
    answers = answering.generated(replace(model, max_tokens=max(min(most, model.max_tokens), 1)), asked)
    out = []
    for prompt, answer in zip(asked, answers, strict=True):
        text, tokens, finished = answer
        message = {"role": "assistant", "content": text}
        out.append(
            {
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": name,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop" if finished else "length"}],
                "usage": {
                    "prompt_tokens": len(prompt),
                    "completion_tokens": tokens,
                    "total_tokens": len(prompt) + tokens,
                },
            }
        )
    return out


def logged(recipe: Assistant, model: Causal, rows: Any) -> tuple[Callable[..., Any], Callable[[str], str | None]]:
    """What logs the model in MLflow, and the proof of what was logged; see `regraft.causal.package`.

    Args:
        rows: some of the holdout, with the columns `text` and `answer`.
    """
    pairs = list(zip(rows["text"].to_pylist(), rows["answer"].to_pylist(), strict=True))

    def right(of: Causal) -> list[Encoded]:
        return [taught(of.tokenizer, of.told, pair, **of.room) for pair in pairs]

    inputs = [opened(json.loads(text)) for text, _ in pairs]
    return package.logged(recipe, model, said=said, inputs=inputs, right=right, example=EXAMPLE, chat=True)
