"""What MLflow's pages say of a version and of a registered model, as Markdown.

It follows from the store and from the ids that MLflow gave, so the doctor can write it anew at any time: it depends on
neither who writes it nor when.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from regraft import verdicts
from regraft.errors import NotFound, RegraftError
from regraft.ledger import Ledger
from regraft.manifest import Manifest
from regraft.pages import run_page, runs_page
from regraft.store import Store

if TYPE_CHECKING:
    from regraft.gate import Verdict

CARD = "adapter/README.md"
"""The model card among the files of a finetune; MLflow's run has a copy below the same name."""


def version(
    store: Store,
    *,
    model: str,
    run: str,
    evaluation: str,
    pages: tuple[str, str] | None,
    verdict: Verdict | None = None,
) -> str | None:
    """The verdict on a version, its data, what it cost and where more is; None where the store has lost the verdict.

    Args:
        model, run, evaluation: as in an entry of the ledger.
        pages: of the MLflow run and of all runs, from the root of MLflow's UI; None where the run is gone.
        verdict: the one that promote came to and is about to leave in the store; else the store's is read.
    """
    trained, judged = store.manifest(f"finetune/{model}"), store.manifest(f"evaluate/{evaluation}")
    verdict = verdict or _verdict(store, model, run, judged)
    if verdict is None:
        return None
    data = _of_run(store, run, "validate")
    if trained and data and trained.inputs.get("train") not in {record.sha256 for record in data.outputs.values()}:
        data = None  # the run was repeated, on other data
    made = {"validate": data, "finetune": trained, "evaluate": judged}
    blocks = [_data(store, data), _links(made, pages), _digests(made, pages), _costs(made)]
    more = "\n\n".join(["### Where it comes from", *(block for block in blocks if block)])
    return verdicts.markdown(verdicts.said(verdict.values), more=more)


def model(ledger: Ledger, name: str, *, until: int | None = None) -> str:
    """Who is champion, and the newest entries of the ledger; of the first `until` entries where that is given."""
    return verdicts.history(
        name, [entry.model_dump(mode="json") for entry in ledger.latest(verdicts.ENTRIES, until=until)]
    )


def pages(client: Any, run_id: str) -> tuple[str, str]:
    """Where MLflow shows a run, and all runs of its experiment."""
    experiment_id = client.get_run(run_id).info.experiment_id
    return run_page(experiment_id, run_id), runs_page(experiment_id)


def _verdict(store: Store, model: str, run: str, judged: Manifest | None) -> Verdict | None:
    """Promote's own, where it decided again, else evaluate's; None where it cannot be read."""
    from regraft.gate import Verdict

    promoted = _of_run(store, run, "promote")
    if promoted and promoted.inputs.get("model") == model and "verdict.json" in promoted.outputs:
        judged = promoted
    with suppress(RegraftError, KeyError):
        if judged:
            return Verdict.read(store.output(judged, "verdict.json"), where=judged.identity)
    return None


def _of_run(store: Store, run: str, step: str) -> Manifest | None:
    """The result of a step that a run points to."""
    try:
        identity = store.pointer(run, step).identity
    except NotFound:
        return None
    return store.manifest(f"{step}/{identity}") if identity else None


class _Validation(BaseModel):
    """What is said of validation.json."""

    window: dict[str, str | None]
    rows: dict[str, Any]


def _data(store: Store, data: Manifest | None) -> str:
    if data is None:
        return ""
    try:
        document = _Validation.model_validate_json(store.output(data, "validation.json"))
    except (RegraftError, KeyError, ValueError):
        return ""
    start, end = ((document.window.get(edge) or "")[:16].replace("T", " ") for edge in ("start", "end"))
    window = f"{start or 'the beginning'} to {end} UTC" if end else "all there is"
    rows = ", ".join(f"{name} {count:,}" for name, count in document.rows.items() if isinstance(count, int))
    return f"Data: {window}; rows: {rows.replace('_', ' ')}."


def _costs(made: Mapping[str, Manifest | None]) -> str:
    rows = [
        [step, f"{cost.seconds:,.0f}", f"{cost.cpu_seconds:,.0f}", f"{cost.peak_memory_bytes / 1e6:,.0f}"]
        for step, manifest in made.items()
        if manifest and (cost := manifest.cost)
    ]
    return verdicts.table([["cost", "seconds", "CPU seconds", "peak MB"], *rows]) if rows else ""


def _digests(made: Mapping[str, Manifest | None], pages: tuple[str, str] | None) -> str:
    """The first letters of each identity, with a link to the run that has all of them and more."""
    return " · ".join(
        f"{step} [`{manifest.identity[:12]}`]({pages[0]})" if pages else f"{step} `{manifest.identity[:12]}`"
        for step, manifest in made.items()
        if manifest
    )


def _links(made: Mapping[str, Manifest | None], pages: tuple[str, str] | None) -> str:
    if pages is None:
        return ""
    (run, runs), trained, judged = pages, made["finetune"], made["evaluate"]
    copies = {"report": ("evaluate", "report.html"), "data page": ("validate", "data.html")}
    links = {
        name: f"{run}/artifacts/evaluation/{view}"
        for name, (step, view) in copies.items()
        if judged and (of := made[step]) and view in of.views
    }
    links |= {"model card": f"{run}/artifacts/{CARD}"} if trained and CARD in trained.outputs else {}
    links |= {"MLflow run": run, "all runs": runs}
    return " · ".join(f"[{name}]({page})" for name, page in links.items())
