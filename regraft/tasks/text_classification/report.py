"""What a report shows of a classifier: which labels it takes for which, how sure it is, and mistakes worth reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regraft.exchange import COLOURS, Contest, Examples
from regraft.tasks.text_classification.metrics import BINS, true
from regraft.tasks.text_classification.model import probabilities
from regraft.tasks.text_classification.recipe import Recipe

MISTAKES = 12
"""How many rows of each kind of mistake are shown."""


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    yield "confusion-matrix", _confusion(contest, recipe.data.labels)
    yield "reliability", _reliability(contest)


def _confusion(contest: Contest, labels: tuple[str, ...]) -> Any:
    import matplotlib.pyplot as plt
    from sklearn.metrics import ConfusionMatrixDisplay

    size = 1.2 * len(labels) + 1.6
    figure, axes = plt.subplots(figsize=(min(size + 1, 9), min(size, 8)))
    ConfusionMatrixDisplay.from_predictions(
        true(contest.rows),
        probabilities(contest.challenger).argmax(axis=1),
        labels=list(range(len(labels))),
        display_labels=labels,
        cmap="Blues",
        colorbar=False,
        ax=axes,
        xticks_rotation=0 if len(labels) < 6 else 90,
    )
    axes.set(title="Challenger: true and given labels", xlabel="given label", ylabel="true label")
    return figure


def _reliability(contest: Contest) -> Any:
    import matplotlib.pyplot as plt
    import numpy as np
    from sklearn.calibration import calibration_curve

    figure, axes = plt.subplots(figsize=(4.4, 4))
    axes.plot([0, 1], [0, 1], color="#c8ccd2", linewidth=1, zorder=0)
    for name, answers in (("champion", contest.champion), ("challenger", contest.challenger)):
        if answers is None:
            continue
        scores = probabilities(answers)
        correct = scores.argmax(axis=1) == true(contest.rows)
        accuracy, confidence = calibration_curve(correct, np.nan_to_num(scores).max(axis=1), n_bins=BINS)
        axes.plot(confidence, accuracy, marker="o", markersize=4, color=COLOURS[name], label=name)
    axes.set(
        title="Is it as sure as it is right?", xlabel="confidence", ylabel="share correct", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """What the challenger lost and won against the champion, or its surest mistakes."""
    import numpy as np

    names, labels, texts = recipe.data.labels, true(contest.rows), contest.rows["text"]
    ours = probabilities(contest.challenger)
    sides, wrong = [ours], ours.argmax(axis=1) != labels
    if contest.champion is None:
        groups = {"Surest mistakes": wrong}
    else:
        theirs = probabilities(contest.champion)
        right = theirs.argmax(axis=1) == labels
        sides.append(theirs)
        groups = {
            "Lost: the champion was right, the challenger is wrong": wrong & right,
            "Won: the champion was wrong, the challenger is right": ~wrong & ~right,
        }

    def answer(scores: Any, row: int) -> str:
        return f"{names[int(scores[row].argmax())]} {scores[row].max():.0%}"

    shown = []
    for title, selected in groups.items():
        rows = np.flatnonzero(selected)
        surest = rows[np.argsort(-ours[rows].max(axis=1), kind="stable")][:MISTAKES]
        cells = [
            (texts[int(row)].as_py(), names[labels[row]], *(answer(side, row) for side in sides)) for row in surest
        ]
        columns = ("text", "label", "challenger", "champion")[: 2 + len(sides)]
        shown.append(Examples(title=title, count=len(rows), columns=columns, rows=cells))
    return shown


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: the label, and both models' probabilities of each."""
    columns = {"label": true(contest.rows)}
    for name, side in (("challenger", contest.challenger), ("champion", contest.champion)):
        if side is not None:
            columns |= {f"{name}.{column}": side[column].to_numpy() for column in side.column_names}
    return columns
