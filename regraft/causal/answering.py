"""What a model answers to prompts, and how probable it finds the answers that are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from regraft import adapters
from regraft.causal import Causal, asking
from regraft.causal.learning import BATCH, Rows, collated, likelihoods
from regraft.causal.prompts import Encoded


class Answer(NamedTuple):
    """What a model says to a prompt.

    `finished`: it ended by itself, rather than at the longest that an answer may be.
    """

    text: str
    tokens: int
    finished: bool


def table(model: Causal, asks: Sequence[Sequence[int]], right: Sequence[Encoded]) -> Any:
    """A table of what a model says to each row.

    Columns: `answer`; `tokens` of it; `finished`, whether it ended by itself; and of what is right, `log_likelihood`
    (natural, of all trained tokens together) and `reference_tokens`.

    Args:
        asks: what each row asks, as tokens.
        right: the same rows with the answers that are right.
    """
    import pyarrow as pa

    said, known = generated(model, asks), of_references(model, right)
    return pa.table(
        {
            "answer": pa.array([answer.text for answer in said], pa.string()),
            "tokens": pa.array([answer.tokens for answer in said], pa.int64()),
            "finished": pa.array([answer.finished for answer in said], pa.bool_()),
            "log_likelihood": pa.array([total for total, _ in known], pa.float64()),
            "reference_tokens": pa.array([count for _, count in known], pa.int64()),
        }
    )


def _batches(rows: Sequence[Sequence[int]], size: int = BATCH) -> Iterator[list[int]]:
    """Row numbers in batches of like length, the longest first: if memory is short, that is known at once."""
    return adapters.by_length([-len(ids) for ids in rows], size)


def of_references(model: Causal, rows: Sequence[Encoded], *, size: int = BATCH) -> list[tuple[float, int]]:
    """Log-likelihood of each row's trained tokens, and their number; (0, 0) of a row that has none.

    Args:
        size: rows at once: their trained tokens are held with a number for each token of the vocabulary.
    """
    import torch

    out = [(0.0, 0)] * len(rows)
    wanted = [number for number, row in enumerate(rows) if any(row.trained[1:])]
    device = next(model.model.parameters()).device
    with torch.inference_mode(), model.computing():
        for batch in _batches([rows[number].ids for number in wanted], size):
            numbers = [wanted[place] for place in batch]
            made = collated(model.tokenizer.pad_token_id, [Rows(rows, numbers)[i] for i in range(len(numbers))])
            inputs = {name: tensor.to(device) for name, tensor in made.items()}
            labels = inputs.pop("labels")
            found = likelihoods(model.model(**inputs, use_cache=False).logits, labels).tolist()
            for number, (total, count) in zip(numbers, found, strict=True):
                out[number] = (float(total), int(count))
    return out


def ends(model: Causal) -> set[int]:
    """The tokens that end an answer."""
    return {model.tokenizer.eos_token_id, *_listed(model.model.generation_config.eos_token_id)}


def generated(model: Causal, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    """Answers to prompts, as tokens: at each place the most probable token, until one that ends the answer."""
    import torch
    from transformers import GenerationConfig

    tokenizer, out = model.tokenizer, [Answer("", 0, False)] * len(prompts)
    last = ends(model)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=model.max_tokens,
        eos_token_id=sorted(last),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    device = next(model.model.parameters()).device
    with torch.inference_mode(), model.computing():
        for numbers in _batches(prompts):
            asked = {"input_ids": [prompts[number] for number in numbers]}
            inputs = tokenizer.pad(asked, padding_side="left", return_tensors="pt").to(device)
            given = model.model.generate(**inputs, generation_config=settings)
            for number, ids in zip(numbers, given[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                length = next((place for place, token in enumerate(ids) if token in last), None)
                said = ids if length is None else ids[:length]
                out[number] = Answer(asking.text(tokenizer, said), len(said), length is not None)
    return out


def _listed(value: Any) -> list[int]:
    return [] if value is None else [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
