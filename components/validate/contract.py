"""The data contract: what is measured over all rows, as checks with limits, and Great Expectations as their judge.

Great Expectations needs 2 s per million rows and expectation, so it is given what is measured, one number a check, and
a sample of the frozen rows. The numbers are exact: they count every row.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from components.validate import docs
from components.validate.freeze import Frozen
from components.validate.profile import distance, word_drift
from components.validate.rows import Tally
from regraft.parts import Data, Severity


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the contract.

    Attributes:
        key: the key of the recipe that sets the limit.
        rule: what must hold, for Data Docs.
        sentence: what was found.
        passed: what Great Expectations says; None before it was asked.
    """

    name: str
    key: str
    severity: Severity
    observed: float
    min: float | None = None
    max: float | None = None
    rule: str
    sentence: str
    passed: bool | None = None


def share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def checks(
    data: Data,
    tally: Tally,
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
    contract, counted, reasons = data.contract, tally.counted, tally.reasons
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

    missing = ("no text", "no label", "no readable time")
    absent = sum(reasons[reason] for reason in missing)
    found = ", ".join(f"{reasons[reason]:,} with {reason}" for reason in missing if reasons[reason])
    lacks = f"lack a text, a label or a time{f' ({found})' if found else ''}"
    yield of_rows("nulls", contract.nulls.severity, absent, contract.nulls.max, lacks, of=counted)
    broken = reasons["invalid UTF-8"] + reasons["encoding damage"]
    limit = contract.encoding
    yield of_rows("encoding", limit.severity, broken, limit.max, "are damaged in their encoding", of=counted)
    yield of_rows(
        "characters",
        contract.characters.severity,
        reasons["too short"] + reasons["too long"],
        data.quarantine,
        f"have fewer than {contract.characters.min:,} or more than {contract.characters.max:,} characters",
        of=counted,
        key="data.contract.characters",
    )
    bad = counted - good
    why = ", ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items(), key=lambda i: (-i[1], i[0])) if reason)
    unknown = ", ".join(repr(label) for label, _ in tally.unknown_labels.most_common(5))
    why += f": {unknown}; the recipe knows {list(data.labels)}" if unknown else ""
    why += f"; the first malformed: {tally.malformed}" if tally.malformed else ""
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
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.personal.items()) if n and kind != "any")
    what = f"hold what looks like personal data{f' ({kinds})' if kinds else ''}"
    yield of_rows("pii", contract.pii.severity, tally.personal["any"], contract.pii.max, what, of=good)
    if token_counts and contract.tokens:
        limits = contract.tokens
        outside = sum(not limits.min <= n <= limits.max for n in token_counts)
        what = f"of a sample have fewer than {limits.min:,} or more than {limits.max:,} tokens"
        key = "data.contract.tokens"
        yield of_rows("tokens", limits.severity, outside, data.quarantine, what, of=len(token_counts), key=key)
    yield from _amounts(data, tally, frozen, profile)
    if contract.freshness and end:
        hours = (end - tally.newest).total_seconds() / 3600 if tally.newest else None
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


def _amounts(data: Data, tally: Tally, frozen: Frozen, profile: dict[str, Any]) -> Iterator[Check]:
    """Are there enough rows, of every label, in every split?"""
    contract, rows = data.contract, profile["rows"]
    outside = f"; {tally.outside_window:,} more arrived outside the window" if tally.outside_window else ""
    yield Check(
        name="rows",
        key="data.contract.rows.min",
        severity=contract.rows.severity,
        observed=rows,
        min=contract.rows.min,
        rule=f"at least {contract.rows.min:,} rows are left to train, select and test on",
        sentence=f"{rows:,} good, distinct rows are left, at least {contract.rows.min:,} are needed{outside}",
    )
    label, count = min(profile["labels"].items(), key=lambda item: item[1])
    yield Check(
        name="labels",
        key="data.contract.labels.min_share",
        severity=contract.labels.severity,
        observed=share(count, rows),
        min=contract.labels.min_share,
        rule=f"each label has at least {contract.labels.min_share:.1%} of the rows",
        sentence=f"the label {label!r} has {count:,} of {rows:,} rows ({share(count, rows):.1%}), "
        f"at least {contract.labels.min_share:.1%} are needed",
    )
    present = {name: sum(n > 0 for n in of_label.values()) for name, of_label in frozen.labels.items()}
    fewest = min(present, key=lambda name: present[name])
    sizes = ", ".join(f"{name} {n:,}" for name, n in frozen.rows.items())
    yield Check(
        name="splits",
        key="data.splits",
        severity="critical",
        observed=present[fewest],
        min=2,
        rule="train, dev and holdout hold at least two labels each",
        sentence=f"{fewest} holds rows of {present[fewest]} label{'s' * (present[fewest] != 1)}, "
        f"at least 2 are needed (rows: {sizes})",
    )


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
    of_labels = distance(reference["labels"], profile["labels"])
    of_words, moved = word_drift(reference, profile)
    named = f"; most moved: {', '.join(moved)}" if moved else ""
    for name, value, more in (("label_drift", of_labels, ""), ("word_drift", of_words, named)):
        what = name.removesuffix("_drift") + "s"
        yield Check(
            name=name,
            key="data.contract.drift.max",
            severity=drift.severity,
            observed=value,
            max=drift.max,
            rule=f"the Jensen-Shannon distance of {what} from the champion's training data is at most {drift.max}",
            sentence=f"the {what} lie {value:.3f} from the champion's training data, at most {drift.max} may be{more}",
        )


Judge = Callable[[list[Check], Any, tuple[str, ...], Path], list[Check]]


@contextmanager
def judge() -> Iterator[Judge]:
    """Great Expectations in a process of its own, which imports it while the caller goes on: that takes seconds.

    Yields:
        A function like `judged`.
    """
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    process = processes.Process(target=_judge, args=(there,), daemon=True)
    process.start()
    there.close()

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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the caller too, who then hangs up
    import great_expectations  # noqa: F401  what takes so long

    with suppress(EOFError, ConnectionError):  # nobody waits for an answer any more
        connection.send(judged(*connection.recv()))


def judged(found: list[Check], sample: Any, labels: tuple[str, ...], out: Path) -> list[Check]:
    """The checks with Great Expectations' word on each, and one more on the frozen rows; writes Data Docs to `out`.

    Args:
        sample: some frozen rows: text, label (an index into `labels`), digest.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it would report to a server
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    context.add_data_docs_site(
        site_name="validation",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(out)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    measured = [
        gxe.ExpectColumnMaxToBeBetween(
            column=check.name,
            min_value=check.min,
            max_value=check.max,
            severity=check.severity,
            description=f"{check.rule}. Found: {check.sentence}.",
        )
        for check in found
    ]
    rows = [
        gxe.ExpectTableColumnsToMatchSet(column_set=["text", "label", "digest"], severity="critical"),
        gxe.ExpectColumnValuesToNotBeNull(column="text", severity="critical"),
        gxe.ExpectColumnValuesToBeOfType(column="text", type_="str", severity="critical"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=list(labels), severity="critical"),
        gxe.ExpectColumnValuesToBeUnique(column="digest", severity="critical"),
        gxe.ExpectColumnValueLengthsToEqual(column="digest", value=64, severity="critical"),
    ]
    sample = sample.to_pandas()
    sample["label"] = [labels[i] for i in sample["label"]]
    tables = {
        "contract": (pd.DataFrame({check.name: [float(check.observed)] for check in found}), measured),
        "frozen-rows": (sample.astype(object), rows),
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
    passed = {r.expectation_config.kwargs["column"]: bool(r.success) for r in results["contract"].results}
    broken = [r.expectation_config.type for r in results["frozen-rows"].results if not r.success]
    whole = Check(
        name="frozen_rows",
        key="data.contract",
        severity="critical",
        observed=len(broken),
        max=0,
        rule="a sample of the frozen rows has the columns, types, labels and digests that later steps rely on",
        sentence=f"{len(broken)} of {len(rows)} expectations on {len(sample):,} frozen rows fail: {broken}",
        passed=not broken,
    )
    return [*(replace(check, passed=passed[check.name]) for check in found), whole]
