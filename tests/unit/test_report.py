"""Pictures, predictions and report of an evaluation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.evaluate import plots, report
from regraft import gate, pipeline
from regraft.exchange import Contest, Examples
from regraft.manifest import Cost, Manifest
from regraft.step import Work
from regraft.store import Store
from regraft.tasks import text_classification as task
from regraft.tasks.text_classification.recipe import Gates
from tests import champions, classified

RECIPE = classified.recipe(gates=Gates(min_rows=100, floors={"accuracy": 0.5}, max_calibration_error=0.5))


def contest_of(rows: int = 400, *, champion: bool = True) -> Contest:
    """Two models that differ on some rows, in two slices."""
    chance = np.random.default_rng(5)
    labels = chance.integers(2, size=rows)

    def answers(right: float) -> Any:
        sure = np.where(chance.random(rows) < right, 0.9, 0.2)
        return classified.answers(np.where(np.eye(2)[labels] == 1, sure[:, None], 1 - sure[:, None]))

    theirs = answers(0.8) if champion else None
    half = np.arange(rows) % 2 == 0
    texts, digests = [f"text {i} <b>& more</b>" for i in range(rows)], [f"{i:064x}" for i in range(rows)]
    clean = classified.rows(labels, text=pa.array(texts, pa.string()), digest=pa.array(digests, pa.string()))
    ours = answers(0.9)
    verdict = gate.judge(
        gate.Answers(
            challenger=task.tally(RECIPE, clean, ours),
            champion=None if theirs is None else task.tally(RECIPE, clean, theirs),
            slices={"kind=a": half, "kind=b": ~half},
        ),
        RECIPE.gates,
        metrics=task.METRICS,
        own=task.own(RECIPE, clean, ours, theirs),
        rows=gate.RowCounts(holdout=rows + 7, clean=rows, contaminated=7),
        challenger=gate.Judged(model="c" * 64),
        champion=gate.Judged(model="d" * 64, version=3) if champion else None,
    )
    return Contest(verdict=verdict, rows=clean, challenger=ours, champion=theirs, latency_ms=1.5)


def page(contest: Contest, folder: Path, examples: list[Examples] | None = None) -> str:
    """The report, from a store with just what it reads."""
    store = Store(str(folder / "store"), "tiny")
    out = folder / "validate"
    out.mkdir()
    checks = [
        {
            "name": "pii",
            "severity": "warning",
            "passed": False,
            "sentence": "3 rows hold what looks like a phone number",
        }
    ]
    (out / "validation.json").write_text(json.dumps({"rows": {"read": 1234, "holdout": 407}, "checks": checks}))
    champions.publish(store, "validate", "ab" * 32, out)
    data = store.manifest("validate/" + "ab" * 32)
    assert data is not None
    cost = Cost(seconds=61, cpu_seconds=100, peak_memory_bytes=2**30)
    model = Manifest(
        recipe="tiny",
        step="finetune",
        identity="c" * 64,
        document={"inputs": {}},
        attempt="attempt-0123456789ab",
        outputs={},
        cost=cost,
        measured={"memory_estimated_bytes": 2**30, "memory_peak_bytes": 3 << 29, "steps_estimated_seconds": 8.0},
        created_at=datetime.now(UTC),
    )
    scratch = folder / "scratch"
    scratch.mkdir()
    context = Work(
        recipe=champions.load_recipe(champions.recipe_file(folder, folder)),
        store=store,
        run="2026-11-24T00-00",
        step=pipeline.step("evaluate"),
        scratch=scratch,
        identity="e" * 64,
        inputs={"holdout": "f" * 64},
    )
    drawn = plots.draw(folder / "plots", contest, task.figures(RECIPE, contest))
    examples = examples or task.examples(RECIPE, contest)
    more = {"data": data, "model": model, "plots": drawn, "measured": {"latency_ms": 1.5}}
    return report.render(context, contest, examples=examples, **more)


def make(out: Path) -> None:
    out.mkdir()
    contest = contest_of()
    plots.draw(out / "plots", contest, task.figures(RECIPE, contest))
    report.write_predictions(out / "p.parquet", contest, task.predictions(RECIPE, contest))


def test_pictures_and_predictions_have_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = "import sys, pathlib; from tests.unit.test_report import make; make(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "one")], check=True)
    make(tmp_path / "two")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert {f.stem for f in files} == {"confusion-matrix", "reliability", "slices", "p"}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_report_holds_all_that_a_person_decides_on(tmp_path: Path) -> None:
    contest = contest_of()
    html = page(contest, tmp_path)
    text = re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))
    verdict = contest.verdict
    assert verdict.champion is not None
    assert verdict.difference is not None
    assert verdict.sentence in text
    for side in (verdict.challenger, verdict.champion):
        interval = side.intervals["f1_macro"]
        assert f"{interval.point:.3f} {interval.low:.3f} to {interval.high:.3f}" in text, "both, with intervals"
    for found in verdict.gates:
        assert found.sentence in text
    assert "kind=a" in text
    assert "61 s, 100 CPU seconds, 1.0 GiB at most; foreseen were 1.0 of 1.5 GiB" in text
    assert "champion, version 3" in text
    assert "7 left out" in text
    assert "3 rows hold what looks like a phone number" in text, "warnings of validate"
    assert "1,234" in text
    for identity in ("ab" * 32, "c" * 64, "e" * 64, "f" * 64, "2026-11-24T00-00"):
        assert identity in text, "where it comes from"
    assert html.count("<svg") == 3


def test_texts_are_shown_where_the_two_models_differ_and_never_as_markup(tmp_path: Path) -> None:
    contest = contest_of()
    html = page(contest, tmp_path)
    lost, won = task.examples(RECIPE, contest)
    assert lost.title.startswith("Lost")
    assert lost.count > 0
    ours, theirs = (np.stack(side.columns, axis=1).argmax(axis=1) for side in (contest.challenger, contest.champion))
    rows = contest.rows.to_pydict()
    for text, *_ in lost.rows:
        i = rows["text"].index(text)
        assert theirs[i] == rows["label"][i] != ours[i]
    assert {row[0] for row in lost.rows}.isdisjoint(row[0] for row in won.rows)
    assert lost.rows[0][0].replace("<b>&", "&lt;b&gt;&amp;").replace("</b>", "&lt;/b&gt;") in html
    assert "<b>& more" not in html


def test_the_report_asks_nothing_of_the_network(tmp_path: Path) -> None:
    html = page(contest_of(), tmp_path)
    assert html.count("<script") == 1, "our own, which is in the page"
    fetched = re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import|<link|<iframe""", html)
    assert fetched == []


@pytest.mark.parametrize("rows", [0, 400])
def test_there_is_a_report_without_champion_and_without_a_clean_row(tmp_path: Path, rows: int) -> None:
    contest = contest_of(rows, champion=False)
    html = page(contest, tmp_path)
    assert contest.verdict.sentence in html
    assert html.count("<svg") == (2 if rows else 0)
