"""What a report shows of documents: how well each model knows them, and those at which the challenger got better or
worse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regraft.causal import showing
from regraft.exchange import COLOURS, Contest, Examples
from regraft.tasks.pretraining.recipe import Recipe

DRAWN = 2_000
"""Documents in the picture: the first ones, which are a random sample, since rows are in the order of their digests."""


def _perplexities(contest: Contest) -> dict[str, Any]:
    """Of each model that was asked, the perplexity of each document, shape (rows,)."""
    import numpy as np

    def of(answers: Any) -> Any:
        with np.errstate(over="ignore"):  # weights that are no numbers are said elsewhere
            return np.exp(-answers["log_likelihood"].to_numpy() / answers["reference_tokens"].to_numpy())

    return {name: of(answers) for name, answers in showing.sides(contest).items()}


def figures(recipe: Recipe, contest: Contest) -> Iterator[tuple[str, Any]]:
    """Names and matplotlib figures of a contest that has rows."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import LogFormatter

    found = _perplexities(contest)
    other = showing.opponent(found)
    if other is None:
        return
    figure, axes = plt.subplots(figsize=(4.4, 4.2))
    pairs = np.column_stack([found[other], found["challenger"]])[:DRAWN]
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs):
        span = [pairs.min(), pairs.max()]
        axes.plot(span, span, color=COLOURS["champion"], linewidth=1)
    axes.scatter(pairs[:, 0], pairs[:, 1], s=9, alpha=0.6, linewidths=0, color=COLOURS["challenger"])
    axes.set(
        title="Documents below the line: the challenger is better",
        xlabel=f"perplexity of the {other}",
        ylabel="perplexity of the challenger",
        xscale="log",
        yscale="log",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4)))
    yield "perplexity", figure


def examples(recipe: Recipe, contest: Contest) -> list[Examples]:
    """The documents at which the challenger differs most from the champion, or else from the base model, both ways.

    They are ordered by the ratio of the perplexities: what a model finds hard by nature does not come first.
    """
    import numpy as np

    found, texts = _perplexities(contest), contest.rows["text"].to_pylist()
    other = showing.opponent(found)
    ours = np.log(found["challenger"])
    groups = {"Hardest documents": ours}
    if other is not None:
        worse = ours - np.log(found[other])
        groups = {f"Worse than the {other}": worse, f"Better than the {other}": -worse}

    def cells(row: int) -> tuple[str, ...]:
        return (texts[row][: showing.EXCERPT], *(f"{of[row]:.2f}" for of in found.values()))

    columns = ("document", *(f"perplexity of the {name}" for name in found))
    return showing.ranked(groups, cells, columns, all_rows=other is None)


def predictions(recipe: Recipe, contest: Contest) -> dict[str, Any]:
    """Columns of predictions.parquet: how well each model knows a document."""
    return {f"{name}.perplexity": of.tolist() for name, of in _perplexities(contest).items()}
