"""What a report shows of preferences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regraft.causal import showing
from regraft.causal.conversations import content, transcript
from regraft.exchange import COLOURS, Contest, Examples
from regraft.tasks.preferences.metrics import margins, rewards
from regraft.tasks.preferences.recipe import Recipe

MODELS = ("challenger", "champion")


def _asked(contest: Contest) -> dict[str, Any]:
    """Answers of the models that have rewards: those of a base model are none."""
    return {name: answers for name, answers in showing.sides(contest).items() if name in MODELS}


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    yield "margins", _margins(contest)
    if recipe.data.columns.liked is None:
        yield "lengths", _lengths(contest)


def _margins(contest: Contest) -> Any:
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(6, 3.4))
    found = {name: margins(answers) for name, answers in _asked(contest).items()}
    most = max(float(np.abs(of).max()) for of in found.values()) or 1.0
    for name, of in found.items():
        bins = np.linspace(-most, most, 41)  # so that a bin ends at 0
        axes.hist(of, bins=bins.tolist(), histtype="step", color=COLOURS[name], label=name, linewidth=1.5)
    axes.axvline(0, color=showing.REFERENCE, linewidth=1)
    axes.set(title="Reward of chosen minus rejected", xlabel="nats; right of 0 is right", ylabel="pairs")
    axes.legend(frameon=False)
    return figure


def _lengths(contest: Contest) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4))
    for name, answers in reversed(_asked(contest).items()):
        longer = answers["chosen_tokens"].to_numpy() - answers["rejected_tokens"].to_numpy()
        axes.plot(longer, margins(answers), "o", color=COLOURS[name], label=name, markersize=3, alpha=0.6)
    axes.axhline(0, color=showing.REFERENCE, linewidth=1)
    axes.set(title="Is it length?", xlabel="tokens of chosen minus rejected", ylabel="margin, nats")
    axes.legend(frameon=False)
    return figure


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """The pairs that the challenger is surest of, wrong and right; and chosen answers that are perhaps wrong."""
    found = {name: margins(answers) for name, answers in _asked(contest).items()}
    ours = found["challenger"]
    asked = [transcript(text)[: showing.EXCERPT] for text in contest.rows["text"].to_pylist()]
    chosen, rejected = (_said(contest, side) for side in ("chosen", "rejected"))

    def cells(row: int) -> tuple[str, ...]:
        return (asked[row], chosen[row], rejected[row], *(f"{of[row]:+.2f}" for of in found.values()))

    columns = ("asked", "chosen", "rejected", *(f"{name}'s margin" for name in found))
    groups = {"Wrong, the surest first": -ours, "Right, the surest first": ours}
    shown = showing.ranked(groups, cells, columns, all_rows=False)
    of = ("base_chosen", "chosen_tokens")
    return [
        *shown,
        showing.improbable(contest.challenger, lambda row: (asked[row], chosen[row]), by="base model", columns=of),
    ]


def _said(contest: Contest, side: str) -> list[str]:
    return [content(answer) if answer else "" for answer in contest.rows[side].to_pylist()]


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: both answers, and their rewards."""
    columns: dict[str, Any] = {side: _said(contest, side) for side in ("chosen", "rejected")}
    for name, answers in _asked(contest).items():
        columns |= {
            f"{name}.{side}_reward": of for side, of in zip(("chosen", "rejected"), rewards(answers), strict=True)
        }
    return columns
