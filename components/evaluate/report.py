"""The report of one run: a single HTML file that opens offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from regraft.contest import Contest
from regraft.step import Context
from regraft.store import Manifest

MISTAKES = 12
"""How many rows of each kind of mistake are shown."""


def write_predictions(path: Path, contest: Contest) -> None:
    """Both models' probabilities of each clean holdout row."""
    answers = contest.answers
    columns = {"digest": pa.array(contest.digests), "label": pa.array(answers.labels)}
    for name, probabilities in (("challenger", answers.challenger), ("champion", answers.champion)):
        if probabilities is not None:
            columns |= {f"{name}.p{i}": pa.array(probabilities[:, i]) for i in range(probabilities.shape[1])}
    pq.write_table(pa.table(columns), path)


def mistakes(contest: Contest, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Groups of rows worth reading: what the challenger lost and won against the champion, and its surest mistakes."""
    answers = contest.answers
    ours = answers.challenger.argmax(axis=1)
    wrong = ours != answers.labels
    groups = []
    if answers.champion is not None:
        theirs = answers.champion.argmax(axis=1)
        groups.append(("Lost: the champion was right, the challenger is wrong", wrong & (theirs == answers.labels)))
        groups.append(("Won: the champion was wrong, the challenger is right", ~wrong & (theirs != answers.labels)))
    else:
        groups.append(("Surest mistakes", wrong))
    shown = []
    for title, selected in groups:
        rows = np.flatnonzero(selected)
        surest = rows[np.argsort(-answers.challenger[rows].max(axis=1), kind="stable")][:MISTAKES]
        shown.append(
            {
                "title": title,
                "count": len(rows),
                "rows": [
                    {
                        "text": contest.texts[i],
                        "label": labels[answers.labels[i]],
                        "challenger": f"{labels[ours[i]]} {answers.challenger[i].max():.0%}",
                        "champion": f"{labels[int(answers.champion[i].argmax())]} {answers.champion[i].max():.0%}"
                        if answers.champion is not None
                        else None,
                    }
                    for i in surest
                ],
            }
        )
    return shown


def render(
    context: Context,
    contest: Contest,
    *,
    data: Manifest,
    model: Manifest,
    plots: dict[str, str],
    measured: dict[str, float],
) -> str:
    """The report's HTML: everything inline, nothing fetched."""
    folder = context.fetch(data, "validation.json")
    environment = Environment(
        loader=PackageLoader("components.evaluate", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        recipe=context.recipe,
        run=context.run,
        verdict=contest.verdict,
        mistakes=mistakes(contest, context.recipe.data.labels),
        plots={name: Markup(svg[svg.index("<svg") :]) for name, svg in plots.items()},  # noqa: S704  our own SVG
        validation=json.loads((folder / "validation.json").read_text()),
        identities={"data": data.identity, "model": model.identity, "evaluation": context.identity},
        inputs=context.inputs,
        measured=measured,
        cost=model.cost,
    )
