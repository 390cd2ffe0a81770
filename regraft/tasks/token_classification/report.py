"""What a report shows of entities: how good each label is, what kinds of mistakes there are, and some worth reading."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from regraft.exchange import COLOURS, Contest, Examples
from regraft.tasks.token_classification.metrics import by_label, counted
from regraft.tasks.token_classification.recipe import Recipe
from regraft.tasks.token_classification.rows import Span, spans

MISTAKES = 12
"""How many rows of each kind are shown."""
KINDS = ("missed", "other boundaries", "other label", "invented")


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    true, sides = contest.rows["entities"].to_pylist(), _sides(contest)
    labels = recipe.data.labels
    f1 = {name: _f1(labels, true, given) for name, given in sides.items()}
    yield "f1-by-label", _bars(labels, f1, title="F1 of each label", xlabel="F1", limit=1.0)
    kinds = {name: _kinds(true, given) for name, given in sides.items()}
    yield "kinds-of-mistakes", _bars(KINDS, kinds, title="Kinds of mistakes", xlabel="entities", limit=None)


def _sides(contest: Contest) -> dict[str, list[str]]:
    """The entities that each model gives, in JSON, a text a row."""
    sides = {"challenger": contest.challenger, "champion": contest.champion}
    return {name: side["entities"].to_pylist() for name, side in sides.items() if side is not None}


def _f1(labels: Sequence[str], true: list[str], given: list[str]) -> list[float]:
    tally = counted(labels, true, given)
    return [float(value) for value in by_label(tally.adds(tally.keys).sum(axis=0))]


def _kinds(true: list[str], given: list[str]) -> list[int]:
    """How many mistakes of each of KINDS there are."""
    counts: Counter[str] = Counter()
    for one, other in zip(true, given, strict=True):
        there, found = spans(one), spans(other)
        for span in set(there) - set(found):
            near = [answer for answer in found if _overlap(span, answer)]
            same = any(answer[:2] == span[:2] for answer in near)
            counts["other label" if same else "other boundaries" if near else "missed"] += 1
        counts["invented"] += sum(not any(_overlap(answer, span) for span in there) for answer in found)
    return [counts[kind] for kind in KINDS]


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _bars(names: Sequence[str], sides: dict[str, Any], *, title: str, xlabel: str, limit: float | None) -> Any:
    """Horizontal bars, one of each side for each name."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(6, min(0.5 * len(names) + 1.4, 12)))
    thick, at = 0.8 / len(sides), np.arange(len(names))
    for number, (name, values) in enumerate(sides.items()):
        axes.barh(at + (number - (len(sides) - 1) / 2) * thick, values, height=thick, color=COLOURS[name], label=name)
    axes.set(title=title, xlabel=xlabel, yticks=at, yticklabels=names)
    if limit is not None:
        axes.set_xlim(0, limit)
    axes.invert_yaxis()
    axes.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """What the challenger lost and won against the champion, or its mistakes; those with most of them first."""
    texts, true, sides = contest.rows["text"].to_pylist(), contest.rows["entities"].to_pylist(), _sides(contest)
    wrong = {
        name: [len(set(spans(one)) ^ set(spans(other))) for one, other in zip(true, given, strict=True)]
        for name, given in sides.items()
    }
    ours = wrong["challenger"]
    if "champion" in wrong:
        more = [one - other for one, other in zip(ours, wrong["champion"], strict=True)]
        groups = {
            "Lost: the challenger makes more mistakes than the champion": more,
            "Won: the challenger makes fewer mistakes than the champion": [-number for number in more],
        }
    else:
        groups = {"Mistakes": ours}
    shown = []
    for title, numbers in groups.items():
        rows = sorted((row for row, number in enumerate(numbers) if number > 0), key=lambda row: -numbers[row])
        cells = [
            (
                marked(texts[row], spans(true[row])),
                *(mistakes(texts[row], true[row], given[row]) for given in sides.values()),
            )
            for row in rows[:MISTAKES]
        ]
        columns = ("text with its entities", *sides)
        shown.append(Examples(title=title, count=len(rows), columns=columns, rows=cells))
    return shown


def marked(text: str, found: Sequence[Span]) -> str:
    """The text with entities in brackets, each with its label: `[Ada Lovelace PER] wrote it`."""
    for start, end, label in sorted(found, reverse=True):
        text = f"{text[:start]}[{text[start:end]} {label}]{text[end:]}"
    return text


def mistakes(text: str, true: str, given: str) -> str:
    """What is wrong with the entities that a model gives of a text, both in JSON."""
    there = spans(true)
    scores = {(one["start"], one["end"], one["label"]): one["score"] for one in json.loads(given)}
    missed = [f"missed [{text[start:end]} {label}]" for start, end, label in there if (start, end, label) not in scores]
    false = [
        f"gave [{text[span[0] : span[1]]} {span[2]}] {score:.0%}" for span, score in scores.items() if span not in there
    ]
    return "; ".join(missed + false) or "all right"


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: the entities, and those that both models give, in JSON."""
    given = {f"{name}.entities": entities for name, entities in _sides(contest).items()}
    return {"entities": contest.rows["entities"].to_pylist(), **given}
