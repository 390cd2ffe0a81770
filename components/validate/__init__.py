"""Checks fresh data against the contract and freezes it.

Outputs: train.parquet, dev.parquet and holdout.parquet (`text`; `label`, an index into the recipe's labels; `digest`,
SHA-256 of label and tidy text; `slice.<name>`), validation.json, profile.json, quarantine.parquet. View: data_docs/.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from regraft import pipeline, reading, sources
from regraft.errors import BadInput, NotFound, Refused
from regraft.step import Context, Outcome, upstream
from regraft.store import Manifest, sha256

SAMPLE = 2_000
"""Rows whose tokens are counted."""
MOST_THREADS = 4
"""Each holds a batch of rows and what is made of it."""
READING, FREEZING = 0.75, 0.9
"""Shares of the step's time at whose end all is read, and frozen."""


def window(context: Context) -> tuple[datetime | None, datetime | None]:
    """Start and end of the times whose rows count; None where there is no limit."""
    data = context.recipe.data
    if data.columns.time is None:
        return None, None
    end = pipeline.run_time(context.run)
    return (end - data.window if data.window else None), end


def inputs(context: Context) -> dict[str, str]:
    """Digests of all that the step reads."""
    data = context.recipe.data
    start, end = window(context)
    left_out = reading.left_out(data)
    for sentence in left_out.values():  # here, so that a cached step says it too
        print(f"warning: {data.source}: {sentence}", file=sys.stderr, flush=True)
    found = {
        "source": reading.digest(data),
        "left_out": sha256(left_out),
        "window": f"{start or ''}/{end or ''}",
    }
    if data.contract.tokens:
        found["tokenizer"] = _tokenizer_digest(context)
    reference = _reference(context)
    found["reference"] = reference.outputs["profile.json"].sha256 if reference else "none"
    return found


def _tokenizer_digest(context: Context) -> str:
    base = context.recipe.base_model
    if base.revision:
        return sources.base_model_digest(base.source, base.revision)
    return sources.digest(_tokenizer_file(context), ("tokenizer.json",))


def _tokenizer_file(context: Context) -> str:
    return context.recipe.base_model.source.rstrip("/") + "/tokenizer.json"


def _reference(context: Context) -> Manifest | None:
    """The validation of the data that the champion of an earlier run was trained on."""
    champion = context.ledger.before(context.run)
    if champion is None:
        return None
    try:
        return upstream(context.store, champion.run, "validate")
    except (NotFound, Refused):
        return None  # the files of that run were cleared away, or it was repeated on worse data


def work(context: Context) -> Outcome:
    """Reads, judges and freezes the rows; refuses the run where a critical check fails."""
    from components.validate import contract, freeze, profile, rows

    data = context.recipe.data
    start, end = window(context)
    tally = rows.Tally()
    files, spans = reading.files(data), reading.Spans()
    buckets = freeze.Buckets(_folder(context, "buckets"), sum(size for _, _, size in files))
    quarantine = freeze.Parquet(context.out / "quarantine.parquet")

    def judged(batch: tuple[Any, float]) -> tuple[Any, Any, rows.Tally, float]:
        table, done = batch
        return *rows.judge(table, data, start, end), done

    threads = min(MOST_THREADS, math.ceil(pipeline.resources(context.recipe, context.step).cpu))
    for good, bad, counted, done in _at_once(threads, judged, reading.batches(data, files, spans)):
        buckets.add(good)
        quarantine.add(bad)
        tally.add(counted)
        context.progress(READING * done, f"read {tally.read:,} rows")
    context.progress(READING, f"freezing {tally.reasons['']:,} good rows")
    with contract.judge() as judged_by:
        frozen = freeze.freeze(buckets, context.out, _folder(context, "bands"), quarantine, data.labels, SAMPLE)
        quarantine.close()
        totals = {name: sum(n[i] for n in frozen.labels.values()) for i, name in enumerate(data.labels)}
        now = profile.profile(rows=sum(frozen.rows.values()), labels=totals, words=tally.words)
        _write(context.out / "profile.json", now)
        reference = _reference(context)
        before = None
        if reference:
            before = json.loads((context.fetch(reference, "profile.json") / "profile.json").read_text())
        context.progress(FREEZING, "judging by the contract")
        counts = _token_counts(context, frozen.sample.column("text").to_pylist())
        measured = list(contract.checks(data, tally, frozen, now, token_counts=counts, reference=before, end=end))
        found = judged_by(measured, frozen.sample, data.labels, context.out / "data_docs")
    left_out = reading.left_out(data)
    if spans.several:
        print(f"{'warning: ' * spans.unusual}{data.source}: {spans.sentence}", file=sys.stderr, flush=True)
    document = _document(tally, frozen, found, start, end, reference)
    _write(context.out / "validation.json", {**document, "left_out": left_out, "lines": spans.sentence})
    warnings = [check for check in found if not check.passed and check.severity == "warning"]
    for check in warnings:
        context.progress(1, f"warning: {check.name}: {check.sentence}")
    context.progress(1, ", ".join(f"{name} {count:,}" for name, count in frozen.rows.items()))
    return Outcome(
        metrics={
            "rows": frozen.rows,
            "read": tally.read,
            "set_aside": tally.counted - tally.reasons[""],
            "checks": {check.name: check.observed for check in found},
            "left_out": left_out,
            "lines": spans.sentence,
            "warnings": [
                *(f"{check.name}: {check.sentence}" for check in warnings),
                *(f"{kind}: {sentence}" for kind, sentence in left_out.items() if kind != "hidden"),
                *([f"lines: {spans.sentence}"] if spans.unusual else []),
            ],
        },
        views=("data_docs",),
        refused=_refusal(found),
    )


def _at_once(threads: int, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results of a function in the order of the items, for some of which it works at once.

    Arrow and numpy let go of Python's lock while they work.
    """
    begun: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _refusal(found: list[Any]) -> str | None:
    """Why the run is refused, the first cause first, and what to do."""
    failed = [check for check in found if not check.passed and check.severity == "critical"]
    if not failed:
        return None
    first = "; ".join(f"{check.name}: {check.sentence} ({check.key})" for check in failed[:2])
    more = f"; and {len(failed) - 2} more in validation.json" if len(failed) > 2 else ""
    return (
        f"the data breaks the contract: {first}{more}. Rows set aside are in quarantine.parquet, all checks in "
        "data_docs; mend the source, or the limit in the recipe, and run again"
    )


def _document(
    tally: Any, frozen: Any, found: list[Any], start: datetime | None, end: datetime | None, reference: Manifest | None
) -> dict[str, Any]:
    return {
        "passed": all(check.passed for check in found if check.severity == "critical"),
        "window": {"start": start.isoformat() if start else None, "end": end.isoformat() if end else None},
        "rows": {
            "read": tally.read,
            "outside_window": tally.outside_window,
            "set_aside": {reason: n for reason, n in sorted(tally.reasons.items()) if reason},
            "duplicates": frozen.duplicates,
            "withheld": frozen.withheld,
            **frozen.rows,
        },
        "reference": reference.identity if reference else None,
        "checks": [asdict(check) for check in found],
    }


def _token_counts(context: Context, texts: list[str]) -> list[int]:
    if not context.recipe.data.contract.tokens:
        return []
    from tokenizers import Tokenizer

    base = context.recipe.base_model
    if base.revision:
        tokenizer = Tokenizer.from_pretrained(base.source.removeprefix("hf://"), revision=base.revision)
    else:
        ((system, path),) = sources.files(_tokenizer_file(context))
        with sources.reading(base.source):
            content = system.cat_file(path).decode()
        try:
            tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"is not a tokenizer: {error}", where=_tokenizer_file(context)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


def _folder(context: Context, name: str) -> Path:
    folder = context.scratch / name
    folder.mkdir()
    return folder


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
