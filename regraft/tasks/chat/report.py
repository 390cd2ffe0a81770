"""What a report shows of an assistant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regraft.causal import judge, showing
from regraft.causal.conversations import transcript
from regraft.exchange import Contest, Examples, Keep
from regraft.gate import Gate
from regraft.tasks.chat.metrics import faults, references
from regraft.tasks.chat.recipe import Recipe


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    found = {name: faults(contest.rows, answers) for name, answers in showing.sides(contest).items()}
    return showing.figures(contest, references(contest.rows), found)


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """The rows on which the challenger differs most from the other, both ways, by the likelihood of a token."""
    import numpy as np

    scores = {
        name: np.exp(answers["log_likelihood"].to_numpy() / np.maximum(answers["reference_tokens"].to_numpy(), 1))
        for name, answers in showing.sides(contest).items()
    }
    asked = [transcript(text) for text in contest.rows["text"].to_pylist()]
    return showing.examples(contest, asked, references(contest.rows), scores, by="likelihood")


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: the reference, and what each model said."""
    return {"reference": references(contest.rows), **showing.predictions(contest)}


def judged(
    recipe: Recipe, rows: Any, sides: Mapping[str, Any], people: Any, keep: Keep
) -> tuple[list[Gate], list[Examples]]:
    """What the recipe's judge says of both sides' answers; see `judge.judged`."""
    return judge.judged(recipe, [transcript(text) for text in rows["text"].to_pylist()], sides, people, keep)
