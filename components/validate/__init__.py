"""Checks fresh data against the contract and freezes it.

Outputs: train.parquet, dev.parquet and holdout.parquet (`text`; what is right, in columns of the task; `digest`,
SHA-256 of the tidy text; `slice.<name>`), validation.json, profile.json, quarantine.parquet. Views: data_docs/,
data.html.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from components.validate import mask
from regraft import base_model, bases, escaped, locations, pipeline, reading, sources, tasks
from regraft.digests import sha256
from regraft.errors import BadInput, NotFound, Refused
from regraft.manifest import Manifest
from regraft.parts import Data
from regraft.step import Context, Outcome, Work, upstream

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
    source = tasks.source(context.recipe.task, data, data.source)
    left_out = reading.left_out(source)
    for sentence in left_out.values():  # here, so that a cached step says it too
        print(f"warning: {data.source}: {sentence}", file=sys.stderr, flush=True)
    digests = {
        "source": reading.digest(source),
        "left_out": sha256(left_out),
        "window": f"{start or ''}/{end or ''}",
    }
    if data.contract.tokens:
        digests["tokenizer"] = _tokenizer_digest(context)
    if anchor := tasks.anchor(context.recipe):
        digests["anchor"] = reading.pinned(anchor)
    digests |= mask.inputs(context)
    reference = _reference(context)
    digests["reference"] = reference.outputs["profile.json"].sha256 if reference else "none"
    return digests


def _tokenizer_digest(context: Context) -> str:
    base = context.recipe.base_model
    if base.revision:
        return sources.base_model_digest(base.source, base.revision)
    if locations.champion(base.source):
        return _digest(bases.tokenizer(context))
    return sources.digest(_tokenizer_file(context), ("tokenizer.json",))


def _tokenizer_file(context: Context) -> str:
    return context.recipe.base_model.source.rstrip("/") + "/tokenizer.json"


def _digest(content: bytes) -> str:
    """What `sources.digest` says of a place that has one file."""
    return hashlib.sha256(hashlib.sha256(content).digest()).hexdigest()


def _reference(context: Context) -> Manifest | None:
    """The validation of the data that the champion of an earlier run was trained on."""
    champion = context.ledger.before(context.run)
    if champion is None:
        return None
    try:
        return upstream(context.store, champion.run, "validate")
    except (NotFound, Refused):
        return None  # the files of that run were cleared away, or it was repeated on worse data


def work(context: Work) -> Outcome:
    """Reads, judges and freezes the rows; refuses the run where a critical check fails."""
    from components.validate import contract, freeze, instructions, language, overlap, page, profile, rows
    from components.validate.quarantine import Quarantine

    data, task = context.recipe.data, tasks.of(context.recipe.task)
    source = tasks.source(context.recipe.task, data, data.source)
    start, end = window(context)
    totals = rows.Totals()
    files, spans = reading.files(source), reading.Spans()
    buckets = freeze.Buckets(_folder(context, "buckets"), sum(size for _, _, size in files), task.ROWS.target)
    quarantine = Quarantine(context.out / "quarantine.parquet")

    tokenizer = mask.tokenizer(context)
    marks = escaped.marks(tokenizer) if tokenizer else ""

    def judged(batch: tuple[Any, float]) -> tuple[Any, Any, rows.Totals, float]:
        table, done = batch
        return *rows.judge(context.recipe.task, table, data, start, end, marks), done

    threads = min(MOST_THREADS, math.ceil(pipeline.resources(context.recipe, context.step).cpu))
    for good, bad, counted, done in _at_once(threads, judged, reading.batches(source, files, spans)):
        buckets.add(good)
        quarantine.add(bad)
        totals.add(counted)
        context.progress(READING * done, f"read {totals.read:,} rows")
    context.progress(READING, f"freezing {totals.reasons['']:,} good rows")
    with contract.judge() as judged_by, ThreadPoolExecutor(1) as beside:
        scratch = _folder(context, "bands")
        frozen = freeze.freeze(
            task, data, buckets, out=context.out, scratch=scratch, quarantine=quarantine, sample=SAMPLE
        )
        quarantine.close()
        now = profile.profile(
            rows=sum(frozen.rows.values()),
            counts=frozen.totals,
            languages=language.counts(frozen.said.to_pylist()),
            words=totals.words,
        )
        _write(context.out / "profile.json", now)
        reference = _reference(context)
        before = None
        if reference:
            before = json.loads((context.fetch(reference, "profile.json") / "profile.json").read_text())
        context.progress(FREEZING, "judging by the contract")
        counts = _token_counts(context, frozen.sample.column("text").to_pylist())
        found = page.Validated(totals=totals, frozen=frozen, now=now, before=before, tokens=counts, end=end)
        drawing = beside.submit(page.pictures, data, found)
        measured = list(
            contract.checks(task, data, totals, frozen, now, token_counts=counts, reference=before, end=end)
        )
        measured += language.checks(data, now["languages"], before.get("languages") if before else None)
        shared = overlap.of(context.recipe, scratch)
        measured += overlap.checks(data, shared)
        learned = mask.of(context, tokenizer, frozen.sample)
        measured += mask.checks(learned) if learned else ()
        readable, rows_of = _readable(task, data, frozen.sample), {"mask": mask.described(learned)} if learned else {}
        checks = judged_by(measured, readable, task.known(data), context.out / "data_docs", rows_of)
    left_out = reading.left_out(source)
    if spans.several:
        print(f"{'warning: ' * spans.unusual}{data.source}: {spans.sentence}", file=sys.stderr, flush=True)
    document = _document(totals, frozen, checks, start, end, reference)
    document["instructions"] = instructions.document(totals.instructed, totals.instructions)
    document["languages"] = now["languages"]
    document["overlap"] = overlap.document(shared)
    if learned:
        document["mask"] = mask.document(learned, train=frozen.rows["train"])
    _write(context.out / "validation.json", {**document, "left_out": left_out, "lines": spans.sentence})
    html = page.render(
        context.store.recipe,
        data,
        found,
        document=document,
        quarantine=quarantine,
        drawn=drawing.result(),
        identity=context.identity,
    )
    (context.out / "data.html").write_text(html, encoding="utf-8")
    warnings = [check for check in checks if not check.passed and check.severity == "warning"]
    for check in warnings:
        context.progress(1, f"warning: {check.name}: {check.sentence}")
    context.progress(1, ", ".join(f"{name} {count:,}" for name, count in frozen.rows.items()))
    refused = _refusal(checks)
    return Outcome(
        metrics={
            "rows": frozen.rows,
            "read": totals.read,
            "set_aside": totals.counted - totals.reasons[""],
            "checks": {check.name: check.observed for check in checks},
            "left_out": left_out,
            "lines": spans.sentence,
            "warnings": [
                *(f"{check.name}: {check.sentence}" for check in warnings),
                *(f"{kind}: {sentence}" for kind, sentence in left_out.items() if kind != "hidden"),
                *([f"lines: {spans.sentence}"] if spans.unusual else []),
            ],
        },
        views=("data_docs", "data.html"),
        refused=refused,
        refused_by="contract" if refused else None,
    )


def _readable(task: ModuleType, data: Data, sample: Any) -> Any:
    """Frozen rows with their target as people read it."""
    shown = task.shown(sample.select(task.ROWS.target), data)
    for name in task.ROWS.target:
        sample = sample.set_column(sample.schema.get_field_index(name), name, shown)
    return sample


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


def _refusal(checks: list[Any]) -> str | None:
    """Why the run is refused, the first cause first, and what to do."""
    failed = [check for check in checks if not check.passed and check.severity == "critical"]
    if not failed:
        return None
    first = "; ".join(f"{check.name}: {check.sentence} ({check.key})" for check in failed[:2])
    more = f"; and {len(failed) - 2} more in validation.json" if len(failed) > 2 else ""
    return (
        f"the data breaks the contract: {first}{more}. Rows set aside are in quarantine.parquet, all checks in "
        "data_docs; mend the source, or the limit in the recipe, and run again"
    )


def _document(
    totals: Any,
    frozen: Any,
    checks: list[Any],
    start: datetime | None,
    end: datetime | None,
    reference: Manifest | None,
) -> dict[str, Any]:
    return {
        "passed": all(check.passed for check in checks if check.severity == "critical"),
        "window": {"start": start.isoformat() if start else None, "end": end.isoformat() if end else None},
        "rows": {
            "read": totals.read,
            "outside_window": totals.outside_window,
            "set_aside": {reason: n for reason, n in sorted(totals.reasons.items()) if reason},
            "duplicates": frozen.duplicates,
            "withheld": frozen.withheld,
            **frozen.rows,
        },
        "reference": reference.identity if reference else None,
        "checks": [asdict(check) for check in checks],
    }


def _token_counts(context: Work, texts: list[str]) -> list[int]:
    if not context.recipe.data.contract.tokens:
        return []
    from tokenizers import Tokenizer

    base = context.recipe.base_model
    if base.revision:
        tokenizer = Tokenizer.from_pretrained(base.source.removeprefix("hf://"), revision=base.revision)
    else:
        content = _tokenizer(context)
        if _digest(content) != context.inputs["tokenizer"]:
            raise BadInput(
                "the file changed since this step began",
                where=_tokenizer_file(context),
                state="nothing was put out",
                next="repeat the command",
            )
        try:
            tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"is not a tokenizer: {error}", where=_tokenizer_file(context)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    except Exception as error:  # as above
        raise BadInput(f"does not take the texts: {error}", where=_tokenizer_file(context)) from error


def _tokenizer(context: Context) -> bytes:
    """The content of the base model's tokenizer.json. Raises BadInput."""
    source = context.recipe.base_model.source
    if locations.champion(source):
        return bases.tokenizer(context)
    ((system, path),) = sources.files(_tokenizer_file(context))
    with sources.reading(source):
        base_model.not_too_large(int(system.size(path) or 0), where=_tokenizer_file(context))
        return bytes(system.cat_file(path))


def _folder(context: Work, name: str) -> Path:
    folder = context.scratch / name
    folder.mkdir()
    return folder


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
