"""What a report shows of summaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regraft.causal import judge, scoring, showing
from regraft.exchange import Contest, Examples, Keep
from regraft.gate import Gate
from regraft.tasks.summarization.metrics import ROUGE, faults, rouge
from regraft.tasks.summarization.recipe import Recipe


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    found = {name: faults(recipe, contest.rows, answers) for name, answers in showing.sides(contest).items()}
    return showing.figures(contest, contest.rows["summary"].to_pylist(), found)


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """The rows on which the challenger differs most from the other, both ways, by ROUGE-L."""
    right, place = contest.rows["summary"].to_pylist(), ROUGE.index("rougeL")
    scores = {
        name: rouge(recipe, answers["answer"].to_pylist(), right)[:, place] / scoring.UNIT
        for name, answers in showing.sides(contest).items()
    }
    return showing.examples(contest, contest.rows["text"].to_pylist(), right, scores, by="ROUGE-L")


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: the summary, and what each model said."""
    return {"summary": contest.rows["summary"].to_pylist(), **showing.predictions(contest)}


def judged(
    recipe: Recipe, rows: Any, sides: Mapping[str, Any], people: Any, keep: Keep
) -> tuple[list[Gate], list[Examples]]:
    """What the recipe's judge says of both sides' answers; see `judge.judged`."""
    return judge.judged(recipe, rows["text"].to_pylist(), sides, people, keep)
