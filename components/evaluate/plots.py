"""The pictures of an evaluation: SVG whose bytes depend on nothing but the numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from regraft import escaped, views
from regraft.exchange import COLOURS, Contest


def draw(folder: Path, contest: Contest, own: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Draws what there is to draw into a folder; gives the SVG text of each plot by name.

    Args:
        own: names and figures of the task.
    """
    folder.mkdir()
    drawn: dict[str, str] = {}
    if not contest.verdict.rows.clean:
        return drawn
    with views.drawing():
        for name, figure in (*own, ("slices", _slices(contest))):
            if figure is None:
                continue
            drawn[name] = views.svg(figure)
            plt.close(figure)
            (folder / f"{name}.svg").write_text(drawn[name])
    return drawn


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
        colour = COLOURS["challenger" if judged else "champion"]
        axes.plot([delta.low, delta.high], [place, place], color=colour, linewidth=2)
        axes.plot(delta.point, place, "o", color=colour, markersize=6)
    axes.axvline(0, color="#c8ccd2", linewidth=1, zorder=0)
    axes.set_yticks(np.arange(len(rows)), [f"{escaped.cut(name, 40)} ({count:,})" for name, count, _, _ in rows])
    axes.invert_yaxis()
    axes.set(title=f"{verdict.metric}: challenger minus champion", xlabel="difference, with interval")
    return figure
