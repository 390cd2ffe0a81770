"""The pictures of an evaluation: SVG whose bytes depend on nothing but the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay

from regraft.contest import Contest
from regraft.intervals import BINS

STYLE = {
    "svg.hashsalt": "regraft",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
CHALLENGER, CHAMPION = "#2f6fde", "#8a8f98"


def draw(folder: Path, contest: Contest, labels: tuple[str, ...]) -> dict[str, str]:
    """Draws what there is to draw into a folder; gives the SVG text of each plot by name."""
    folder.mkdir()
    drawn: dict[str, str] = {}
    if not contest.verdict.rows.clean:
        return drawn
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("confusion-matrix", _confusion(contest, labels)),
            ("reliability", _reliability(contest)),
            ("slices", _slices(contest)),
        ):
            if figure is None:
                continue
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None}, transparent=True)
            plt.close(figure)
            drawn[name] = path.read_text()
    return drawn


def _confusion(contest: Contest, labels: tuple[str, ...]) -> Any:
    size = 1.2 * len(labels) + 1.6
    figure, axes = plt.subplots(figsize=(min(size + 1, 9), min(size, 8)))
    ConfusionMatrixDisplay.from_predictions(
        contest.answers.labels,
        contest.answers.challenger.argmax(axis=1),
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
    figure, axes = plt.subplots(figsize=(4.4, 4))
    axes.plot([0, 1], [0, 1], color="#c8ccd2", linewidth=1, zorder=0)
    answers = contest.answers
    for name, probabilities, colour in (
        ("champion", answers.champion, CHAMPION),
        ("challenger", answers.challenger, CHALLENGER),
    ):
        if probabilities is None:
            continue
        correct = probabilities.argmax(axis=1) == answers.labels
        accuracy, confidence = calibration_curve(correct, np.nan_to_num(probabilities).max(axis=1), n_bins=BINS)
        axes.plot(confidence, accuracy, marker="o", markersize=4, color=colour, label=name)
    axes.set(
        title="Is it as sure as it is right?", xlabel="confidence", ylabel="share correct", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def _slices(contest: Contest) -> Any:
    """Difference to the champion with its interval, a line a slice; None where there is nothing to compare."""
    verdict = contest.verdict
    rows = [(part.name, part.rows, part.difference, part.judged) for part in verdict.slices if part.difference]
    if not rows or verdict.difference is None:
        return None
    everything = ("all rows", verdict.rows.clean, verdict.difference, True)
    rows = [everything, *rows]
    figure, axes = plt.subplots(figsize=(6.4, 0.5 * len(rows) + 1.3))
    for place, (_, _, delta, judged) in enumerate(rows):
        colour = CHALLENGER if judged else CHAMPION
        axes.plot([delta.low, delta.high], [place, place], color=colour, linewidth=2)
        axes.plot(delta.point, place, "o", color=colour, markersize=6)
    axes.axvline(0, color="#c8ccd2", linewidth=1, zorder=0)
    axes.set_yticks(np.arange(len(rows)), [f"{name} ({count:,})" for name, count, _, _ in rows])
    axes.invert_yaxis()
    axes.set(title=f"{verdict.metric}: challenger minus champion", xlabel="difference, with interval")
    return figure
