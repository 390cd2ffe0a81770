"""What a report shows of answers in words: how long they are, their faults, and those worth reading side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from regraft.exchange import COLOURS, Contest, Examples

SHOWN = 20
"""How many rows of each kind are shown."""
EXCERPT = 400
"""Characters of what was asked."""
REFERENCE = "#1b1f24"
FAR, LISTED = 3.5, 10
"""From where on a row lies far from the others, in what would be standard deviations; how many such rows are shown."""


def sides(contest: Contest) -> dict[str, Any]:
    """Answers of each model that was asked; the base model's where there is no champion."""
    found = {"challenger": contest.challenger, "champion": contest.champion, "base model": contest.base}
    return {name: answers for name, answers in found.items() if answers is not None}


def opponent(of_sides: Iterable[str]) -> str | None:
    """The model that the challenger is held against, of those that were asked; None where there is none."""
    return next((name for name in of_sides if name != "challenger"), None)


def figures(
    contest: Contest, right: Sequence[str], found: Mapping[str, Mapping[str, Sequence[bool]]]
) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows.

    Args:
        right: the references.
        found: of each side, what `scoring.faults` said.
    """
    yield "lengths", _lengths(contest, right)
    yield "faults", _faults(found)


def _colour(name: str) -> str:
    return COLOURS.get(name, COLOURS["champion"])


def _lengths(contest: Contest, right: Sequence[str]) -> Any:
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(6, 3.4))
    lengths = {name: list(map(len, answers["answer"].to_pylist())) for name, answers in sides(contest).items()}
    lengths["reference"] = list(map(len, right))
    bins = np.linspace(0, max(max(of, default=1) for of in lengths.values()) or 1, 31)
    for name, of in lengths.items():
        colour = REFERENCE if name == "reference" else _colour(name)
        axes.hist(of, bins=bins.tolist(), histtype="step", color=colour, label=name, linewidth=1.5)
    axes.set(title="How long answers are", xlabel="characters", ylabel="rows")
    axes.legend(frameon=False)
    return figure


def _faults(found: Mapping[str, Mapping[str, Sequence[bool]]]) -> Any:
    import matplotlib.pyplot as plt
    import numpy as np

    kinds = list(next(iter(found.values())))
    figure, axes = plt.subplots(figsize=(6, 0.5 * len(kinds) + 1.4))
    thick, at = 0.8 / len(found), np.arange(len(kinds))
    for number, (name, has) in enumerate(found.items()):
        shares = [sum(has[kind]) / len(has[kind]) for kind in kinds]
        places = at + (number - (len(found) - 1) / 2) * thick
        axes.barh(places, shares, height=thick, color=_colour(name), label=name)
    axes.set(title="Faults of answers", xlabel="share of rows", yticks=at, yticklabels=kinds)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    return figure


def examples(
    contest: Contest, asked: Sequence[str], right: Sequence[str], scores: Mapping[str, Any], *, by: str
) -> list[Examples]:
    """The rows on which the challenger differs most from the champion, or else from the base model, both ways.

    Args:
        asked: what each row asks.
        right: the references.
        scores: of each side, a number a row, shape (rows,); more is better.
        by: what those numbers are called.
    """
    said = {name: answers["answer"].to_pylist() for name, answers in sides(contest).items()}
    other = opponent(said)
    ours = scores["challenger"]
    groups = {"Furthest from the reference": -ours}
    if other is not None:
        groups = {
            f"Lost: further from the reference than the {other}": scores[other] - ours,
            f"Won: nearer to the reference than the {other}": ours - scores[other],
        }

    def cells(row: int) -> tuple[str, ...]:
        answers = (f"{of[row]} ({scores[name][row]:.2f})" for name, of in said.items())
        return (asked[row][:EXCERPT], right[row], *answers)

    columns = ("asked", "reference", *(f"{name} ({by})" for name in said))
    shown = ranked(groups, cells, columns, all_rows=other is None)
    name = other or "challenger"
    return [*shown, improbable(sides(contest)[name], lambda row: (asked[row][:EXCERPT], right[row]), by=name)]


def improbable(
    answers: Any,
    cells: Callable[[int], tuple[str, str]],
    *,
    by: str,
    columns: tuple[str, str] = ("log_likelihood", "reference_tokens"),
) -> Examples:
    """Rows whose reference a model that has not learned it finds far less probable than those of others: wrong ones are
    among them, and what is only rare. It is a list for people to look at; nothing is judged by it.

    Far is a modified z-score (Iglewicz and Hoaglin, 1993) of the mean log-probability of a token below -3.5.

    Args:
        answers: of the model, a table with the columns.
        cells: what a row asks, and its reference.
        by: what the model is called.
        columns: of a row, the log-likelihood of its reference, and the tokens of that.
    """
    import numpy as np

    total, tokens = (answers[name].to_numpy() for name in columns)
    counted = (tokens > 0) & np.isfinite(total)
    each = np.where(counted, total / np.maximum(tokens, 1), 0.0)
    below = np.median(each[counted]) - each if counted.any() else np.zeros(len(each))
    spread = np.median(np.abs(below[counted])) / 0.6745 if counted.any() else 0.0
    far = np.flatnonzero(counted & (below > FAR * spread)) if spread else np.array([], dtype=int)
    worst = far[np.argsort(-below[far], kind="stable")]
    rows: list[tuple[str, ...]] = [(*cells(int(row)), f"{np.exp(each[row]):.2g}") for row in worst[:LISTED]]
    title = f"To look at, perhaps wrong: references that the {by} finds far less probable than others"
    return Examples(title=title, count=len(far), columns=("asked", "reference", "probability of a token"), rows=rows)


def ranked(
    groups: Mapping[str, Any], cells: Callable[[int], tuple[str, ...]], columns: tuple[str, ...], *, all_rows: bool
) -> list[Examples]:
    """Rows worth reading, in groups.

    Args:
        groups: of each, by its title, a number a row, shape (rows,); the greatest comes first.
        cells: a row's texts.
        all_rows: whether rows whose number is not above zero count too.
    """
    shown = []
    for title, order in groups.items():
        chosen = [int(row) for row in (-order).argsort(kind="stable") if all_rows or order[row] > 0]
        rows = [cells(row) for row in chosen[:SHOWN]]
        shown.append(Examples(title=title, count=len(chosen), columns=columns, rows=rows))
    return shown


def predictions(contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: what each model said."""
    return {f"{name}.answer": answers["answer"].to_pylist() for name, answers in sides(contest).items()}
