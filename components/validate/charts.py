"""The pictures of the data page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from components.validate.profile import DAYS, LENGTHS
from components.validate.text import masked
from regraft import views
from regraft.exchange import COLOURS
from regraft.parts import LengthCheck

NOW, BEFORE, CUT = COLOURS["challenger"], COLOURS["champion"], "#c0362c"
MOST = 20
"""Lines of a picture."""
NAME = 32
"""Characters of a name in a picture."""
DATES = 60
"""Bars that rows are counted in by the day."""


def _axes(height: float) -> tuple[Any, Any]:
    """A figure that a phone shows without making its letters too small."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height))
    return figure, figure.subplots()


def bars(sides: Mapping[str, Mapping[str, float]], *, form: str) -> Any:
    """Horizontal bars of the first names, one of each side; the first side is of now, another of before.

    Args:
        sides: numbers by name, all with the same names.
        form: how a number is written beside its bar.
    """
    with views.drawing():
        names = [*next(iter(sides.values()))][:MOST]
        figure, axes = _axes(0.32 * len(names) * (1 + 0.4 * (len(sides) - 1)) + 0.5)
        thick = 0.8 / len(sides)
        for number, ((side, values), colour) in enumerate(zip(sides.items(), (NOW, BEFORE), strict=False)):
            at = [place + (number - (len(sides) - 1) / 2) * thick for place in range(len(names))]
            drawn = axes.barh(at, [values[name] for name in names], height=thick, color=colour, label=side)
            axes.bar_label(drawn, [form.format(values[name]) for name in names], padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), [masked(name, NAME) for name in names])
        axes.set(xlim=(0, 1.18 * max(max(of[name] for name in names) for of in sides.values()) or 1))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.invert_yaxis()
        if len(sides) > 1:
            figure.legend(frameon=False, loc="outside upper right", ncols=2)
        return views.inline(views.svg(figure))


def arrivals(days: Any, end: datetime) -> Any:
    """Rows by the day that they arrived, in the order of time; a bar may stand for several days."""
    with views.drawing():
        known = days[: DAYS - 1].nonzero()[0]
        span = int(known.max()) + 1 if len(known) else 1
        step = math.ceil(span / DATES)
        heights = [int(days[at : min(at + step, DAYS - 1)].sum()) for at in range(0, span, step)]
        figure, axes = _axes(2.4)
        axes.bar([-at for at in range(len(heights))], heights, width=0.9, color=NOW)
        ticks = sorted({0, len(heights) // 2, len(heights) - 1})
        axes.set_xticks([-at for at in ticks], [f"{end - timedelta(days=(at + 1) * step):%Y-%m-%d}" for at in ticks])
        _thousands(axes.yaxis)
        axes.set(ylabel="rows", xlabel="day" if step == 1 else f"{step} days from")
        return views.inline(views.svg(figure))


def lengths(counts: Any, limits: LengthCheck | None, *, unit: str) -> Any:
    """Texts by length, on a logarithmic scale, with the limits of the contract.

    Args:
        counts: as `profile.lengths` gives them.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    with views.drawing():
        filled = counts.nonzero()[0]
        first, last = int(filled.min()), int(filled.max()) + 1
        figure, axes = _axes(2.6)
        axes.stairs(counts[first:last], [*LENGTHS, 2 * LENGTHS[-1]][first : last + 1], fill=True, color=NOW)
        axes.set_xscale("log")
        for cut, align in ((limits.min, "left"), (limits.max, "right")) if limits else ():
            if cut > 1:
                axes.axvline(cut, color=CUT, linewidth=1.2, linestyle="--")
                axes.annotate(
                    f"{'at least' if align == 'left' else 'at most'} {cut:,}",
                    (cut, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(3 if align == "left" else -3, 2),
                    textcoords="offset points",
                    ha=align,
                    fontsize=8,
                    color=CUT,
                )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
        _thousands(axes.xaxis)
        _thousands(axes.yaxis)
        axes.set(xlabel=unit, ylabel="texts")
        return views.inline(views.svg(figure))


def moves(shares: Mapping[str, tuple[float, float]]) -> Any:
    """How far the share of the first words moved, with the share before and now."""
    with views.drawing():
        words = [*shares][:MOST]
        changes = [100 * (now - before) for before, now in shares.values()][:MOST]
        figure, axes = _axes(0.27 * len(words) + 0.9)
        colours = [NOW if change > 0 else BEFORE for change in changes]
        drawn = axes.barh(range(len(words)), changes, height=0.7, color=colours)
        said = [f"{before:.2%} → {now:.2%}" for before, now in shares.values()][:MOST]
        axes.bar_label(drawn, said, padding=3, fontsize=8)
        axes.axvline(0, color="#c8ccd2", linewidth=1, zorder=0)
        axes.set_yticks(range(len(words)), [masked(word, NAME) for word in words])
        room = 2.2 * max(map(abs, changes)) or 1
        axes.set(xlabel="percentage points of all words", xlim=(-room, room))
        axes.invert_yaxis()
        return views.inline(views.svg(figure))


def _thousands(axis: Any) -> None:
    """Numbers of an axis as people write them: matplotlib's own are formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value == round(value) else ""))
    axis.set_minor_formatter(NullFormatter())
