"""The data contract: what is measured over all rows, as checks with limits, and Great Expectations as their judge.

Great Expectations needs 2 s per million rows and expectation, so it is given what is measured, one number a check, and
a sample of the frozen rows. The numbers are exact: they count every row.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from components.validate import docs, instructions, rows
from components.validate.freeze import Frozen
from components.validate.profile import NAMED_WORDS, word_drift
from components.validate.rows import Totals
from regraft import escaped
from regraft.exchange import Check, Seen, drifted
from regraft.parts import Data, Severity
from regraft.rows import INVALID, NO_TEXT


def share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def checks(
    task: ModuleType,
    data: Data,
    totals: Totals,
    frozen: Frozen,
    profile: dict[str, Any],
    *,
    token_counts: list[int],
    reference: dict[str, Any] | None,
    end: datetime | None,
) -> Iterator[Check]:
    """All checks of a data set, in the order from cause to consequence.

    Args:
        token_counts: tokens of the texts of the sample; empty without `contract.tokens`.
        reference: profile of the data that the champion was trained on.
        end: end of the data window.
    """
    contract, counted, reasons = data.contract, totals.counted, totals.reasons
    good = reasons[""]

    def of_rows(
        name: str, severity: Severity, number: int, limit: float, what: str, *, of: int, key: str = ""
    ) -> Check:
        return Check(
            name=name,
            key=key or f"data.contract.{name}.max",
            severity=severity,
            observed=share(number, of),
            max=limit,
            rule=f"at most {limit:.1%} of the rows {what}",
            sentence=f"{number:,} of {of:,} rows ({share(number, of):.1%}) {what}, at most {limit:.1%} may",
        )

    missing = {NO_TEXT: "a text", **task.ROWS.missing, rows.NO_TIME: "a time"}
    absent = sum(reasons[reason] for reason in missing)
    by_reason = ", ".join(f"{reasons[reason]:,} with {reason}" for reason in missing if reasons[reason])
    *others, last = missing.values()
    lacks = f"lack {', '.join(others)} or {last}{f' ({by_reason})' if by_reason else ''}"
    yield of_rows("nulls", contract.nulls.severity, absent, contract.nulls.max, lacks, of=counted)
    broken = reasons[INVALID] + reasons[rows.DAMAGED]
    limit = contract.encoding
    yield of_rows("encoding", limit.severity, broken, limit.max, "are damaged in their encoding", of=counted)
    yield of_rows(
        "characters",
        contract.characters.severity,
        reasons[rows.SHORT] + reasons[rows.LONG],
        data.quarantine,
        f"have fewer than {contract.characters.min:,} or more than {contract.characters.max:,} characters",
        of=counted,
        key="data.contract.characters",
    )
    bad = counted - good
    why = ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items(), key=lambda i: (-i[1], i[0])) if reason)
    unknown = [value for value, _ in totals.unknown.most_common(5)]
    why += f": {task.named(data, unknown)}" if unknown else ""
    why += f"; the first malformed: {totals.malformed}" if totals.malformed else ""
    yield of_rows(
        "quarantine",
        "critical",
        bad,
        data.quarantine,
        f"are bad and set aside{f' ({why})' if why else ''}",
        of=counted,
        key="data.quarantine",
    )
    yield of_rows(
        "duplicates",
        contract.duplicates.severity,
        frozen.duplicates,
        contract.duplicates.max,
        "are duplicates",
        of=good,
    )
    distinct = good - frozen.duplicates
    near = contract.near_duplicates
    what = "nearly equal another row"
    yield of_rows("near_duplicates", near.severity, frozen.near_duplicates, near.max, what, of=distinct)
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(totals.personal.items()) if n and kind != "any")
    what = f"hold what looks like personal data{f' ({kinds})' if kinds else ''}"
    yield of_rows("pii", contract.pii.severity, totals.personal["any"], contract.pii.max, what, of=good)
    kinds = instructions.said(totals.instructed)
    what = f"hold what looks like instructions to a model{f' ({kinds})' if kinds else ''}"
    limit = contract.instructions
    yield of_rows("instructions", limit.severity, totals.instructed["any"], limit.max, what, of=good)
    if token_counts and contract.tokens:
        limits = contract.tokens
        outside = sum(not limits.min <= n <= limits.max for n in token_counts)
        what = f"of a sample have fewer than {limits.min:,} or more than {limits.max:,} tokens"
        key = "data.contract.tokens"
        yield of_rows("tokens", limits.severity, outside, data.quarantine, what, of=len(token_counts), key=key)
    left, elsewhere = profile["rows"], ""
    if totals.outside_window:
        elsewhere = f"; {totals.outside_window:,} more arrived outside the window"
    yield Check(
        name="rows",
        key="data.contract.rows.min",
        severity=contract.rows.severity,
        observed=left,
        min=contract.rows.min,
        rule=f"at least {contract.rows.min:,} rows are left to train, select and test on",
        sentence=f"{left:,} good, distinct rows are left, at least {contract.rows.min:,} are needed{elsewhere}",
    )
    # regraft 0.1 called what the task counts labels
    before = None if reference is None else reference.get("counts", reference.get("labels"))
    yield from task.checks(data, Seen(rows=frozen.rows, counts=frozen.counts, totals=frozen.totals, before=before))
    if contract.freshness and end:
        hours = (end - totals.newest).total_seconds() / 3600 if totals.newest else None
        most = contract.freshness.max_age.total_seconds() / 3600
        age = f"the newest row is {hours:,.1f} hours old" if hours is not None else "no row has a time in the window"
        yield Check(
            name="freshness",
            key="data.contract.freshness.max_age",
            severity=contract.freshness.severity,
            observed=round(hours, 3) if hours is not None else 1e9,
            max=most,
            rule=f"the newest row is at most {most:,.0f} hours older than the end of the window",
            sentence=f"{age} at {end:%Y-%m-%d %H:%M} UTC, at most {most:,.0f} hours are allowed",
        )
    if reference:
        yield from _against(reference, data, profile)


def _against(reference: dict[str, Any], data: Data, profile: dict[str, Any]) -> Iterator[Check]:
    """Comparisons with the data that the champion was trained on."""
    contract, drift = data.contract, data.contract.drift
    shrink = max(0.0, 1 - share(profile["rows"], reference["rows"]))
    yield Check(
        name="row_count",
        key="data.contract.rows.max_shrink",
        severity="warning",
        observed=round(shrink, 6),
        max=contract.rows.max_shrink,
        rule=f"at most {contract.rows.max_shrink:.1%} fewer rows than the champion was made from",
        sentence=f"{profile['rows']:,} rows against {reference['rows']:,} that the champion was made from "
        f"({shrink:.1%} fewer), at most {contract.rows.max_shrink:.1%} may be missing",
    )
    moved, words = word_drift(reference, profile)
    named = f"; most moved: {', '.join([*words][:NAMED_WORDS])}" if words else ""
    yield drifted("word_drift", drift, moved, of="words", where="the words", more=named)


Judge = Callable[[list[Check], Any, Mapping[str, Sequence[str]], Path, Mapping[str, Sequence[str]]], list[Check]]


@contextmanager
def judge() -> Iterator[Judge]:
    """Great Expectations in a process of its own, which imports it while the caller goes on: that takes seconds.

    Yields:
        A function like `judged`.
    """
    processes = multiprocessing.get_context("spawn")
    here, far_end = processes.Pipe()
    process = processes.Process(target=_judge, args=(far_end,), daemon=True)
    process.start()
    far_end.close()

    def ask(*what: Any) -> list[Check]:
        try:
            here.send(what)
            answer = here.recv()
        except (EOFError, ConnectionError) as error:
            process.join()
            if process.exitcode == -signal.SIGKILL:
                raise MemoryError from error
            raise RuntimeError(f"Great Expectations ended with {process.exitcode}; its reason stands above") from error
        return cast("list[Check]", answer)

    try:
        yield ask
    finally:
        here.close()  # so it ends, if nothing was asked
        process.join()


def _judge(connection: Any) -> None:
    escaped.stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the caller too, who then hangs up
    import great_expectations  # noqa: F401  what takes so long

    with suppress(EOFError, ConnectionError):  # nobody waits for an answer any more
        connection.send(judged(*connection.recv()))


def _masked(sample: Any) -> Any:
    """Frozen rows as a data frame whose texts and names of columns hold no markup."""
    table = sample.to_pandas().astype(object).rename(columns=docs.masked)
    return table.map(lambda cell: docs.masked(cell) if isinstance(cell, str) else cell)


def judged(
    checked: list[Check],
    sample: Any,
    known: Mapping[str, Sequence[str]],
    out: Path,
    shown: Mapping[str, Sequence[str]] | None = None,
) -> list[Check]:
    """The checks with Great Expectations' word on each, and one more on the frozen rows; writes Data Docs to `out`.

    Args:
        sample: some frozen rows: text, the task's target as people read it, digest.
        known: what values some of the columns have.
        shown: by name of a check, rows that stand below what it found.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it would report to a server
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    context.add_data_docs_site(
        site_name="validation",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,  # type: ignore[typeddict-unknown-key]
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(out)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    measured = [
        gxe.ExpectColumnMaxToBeBetween(
            column=check.name,
            min_value=check.min,
            max_value=check.max,
            severity=FailureSeverity(check.severity),
            description=docs.paragraphs(
                [f"{check.rule}. Found: {check.sentence}.", *(shown or {}).get(check.name, ())]
            ),
        )
        for check in checked
    ]
    frozen = _masked(sample)
    critical = FailureSeverity.CRITICAL
    expected = [
        gxe.ExpectColumnValuesToNotBeNull(column="text", severity=critical),
        gxe.ExpectColumnValuesToBeOfType(column="text", type_="str", severity=critical),
        *(
            gxe.ExpectColumnValuesToBeInSet(
                column=column, value_set=[docs.masked(value) for value in values], severity=critical
            )
            for column, values in known.items()
        ),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=[name for name in frozen if name != "text"], severity=critical),
        gxe.ExpectColumnValueLengthsToEqual(column="digest", value=64, severity=critical),
    ]
    tables = {
        "contract": (pd.DataFrame({check.name: [float(check.observed)] for check in checked}), measured),
        "frozen-rows": (frozen, expected),
    }
    source = context.data_sources.add_pandas("validate")
    results = {}
    for name, (table, expectations) in tables.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))  # type: ignore[arg-type]
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[context.validation_definitions.add(definition)],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["validation"])],
        )
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
        (results[name],) = run.run_results.values()
    docs.make_offline(out, {name: bool(result.success) for name, result in results.items()})
    asked = {
        name: [(result.expectation_config, bool(result.success)) for result in of.results]
        for name, of in results.items()
    }
    passed = {config.kwargs["column"]: success for config, success in asked["contract"] if config}
    broken = [config.type for config, success in asked["frozen-rows"] if config and not success]
    whole = Check(
        name="frozen_rows",
        key="data.contract",
        severity="critical",
        observed=len(broken),
        max=0,
        rule="a sample of the frozen rows has the columns, types, labels and digests that later steps rely on",
        sentence=f"{len(broken)} of {len(expected)} expectations on {sample.num_rows:,} frozen rows fail: {broken}",
        passed=not broken,
    )
    return [*(replace(check, passed=passed[check.name]) for check in checked), whole]
