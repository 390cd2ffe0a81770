"""What became of a run, as data (`facts`) and as text for a terminal (`render`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from regraft import pipeline, servers, settings, tasks, verdicts
from regraft.errors import BadInput, NotFound, RegraftError
from regraft.gate import Verdict
from regraft.ledger import Ledger
from regraft.manifest import Manifest
from regraft.parts import Recipe
from regraft.store import Store

if TYPE_CHECKING:
    from rich.console import RenderableType

MARKS = {
    "done": "[green]✔[/]",
    "refused": "[yellow]■[/]",
    "failed": "[red]✘[/]",
    "begun": "[dim]▸[/]",
    "skipped": "[dim]-[/]",
    "not run": "[dim]·[/]",
}
COLOURS = {
    "served": "green",
    "promoted": "green",
    "replaced": "yellow",
    "waiting": "yellow",
    "held": "yellow",
    "refused": "yellow",
    "unfinished": "yellow",
    "rejected": "red",
    "not served": "red",
    "failed": "red",
}
"""Of the headline, by what became of the run."""


def facts(declared: Recipe, store: Store, run: str, endpoints: dict[str, str]) -> dict[str, Any]:
    """All there is to say about a run, as JSON values.

    Args:
        endpoints: as in the environment of the steps; without them nothing is said about servers.
    """
    states = steps(store, run, declared)
    document: dict[str, Any] = {"recipe": declared.name, "run": run, "store": store.url, "steps": states}
    manifests = {s["step"]: store.manifest(f"{s['step']}/{s['identity']}") for s in states if s["identity"]}
    document["stopped"] = next((s for s in states if s["state"] in ("refused", "failed")), None)
    # the last counts: promote has one of its own where the champion had changed after the evaluation
    judged = (_judged(store, manifest) for manifest in reversed(manifests.values()) if manifest)
    document["verdict"] = next((verdict for verdict in judged if verdict), None)
    document["data"] = validated.metrics if (validated := manifests.get("validate")) else None
    promoted = manifests.get("promote")
    document["registered"] = promoted.metrics.get("version") if promoted else None
    deployed = manifests.get("deploy")
    document["deployed"] = deployed.measured if deployed and not deployed.refused else None
    head = Ledger(store).head()
    document["champion"] = json.loads(head.model_dump_json()) if head else None
    urls = endpoints.get("REGRAFT_TRITON_URLS", "") if tasks.served(declared.task) else ""
    triton = urls.split(",")[0]
    token = settings.triton_token(endpoints)
    mlflow, trained = endpoints.get("MLFLOW_TRACKING_URI"), manifests.get("finetune")
    model = trained.identity if trained else None
    with ThreadPoolExecutor() as asking:  # each answer takes a moment, and none needs another
        versions = asking.submit(servers.versions, triton, declared.name, token) if triton else None
        answer = asking.submit(prediction, triton, declared, store, head.model) if triton and head else None
        page = asking.submit(servers.training_run, mlflow, declared.name, model) if mlflow else None
    document["serving"] = versions.result() if versions else None
    document["prediction"] = answer.result() if answer else None
    document["outcome"] = outcome(document, model)
    document["open"] = {
        "MLflow": page.result() if page else None,
        "MLflow model": _registry_page(mlflow, declared.name, document["registered"]),
        "report": _view(store, manifests, "report.html"),
        "data page": _view(store, manifests, "data.html"),
        "Data Docs": _view(store, manifests, "data_docs/index.html"),
        "Triton": f"http://{triton}/v2/models/{declared.name}" if triton else None,
        "try it at": endpoints.get(servers.OPENAI) if tasks.streams(declared.task) else None,
    }
    return document


def outcome(document: dict[str, Any], model: str | None) -> dict[str, str]:
    """What happened in the end: `state`, a key of `COLOURS`, and `sentence`, the summary's headline.

    Args:
        document: the other facts of the run.
        model: identity of the model that the run trained.
    """
    verdict, stopped, champion, serving = (document[key] for key in ("verdict", "stopped", "champion", "serving"))
    words = {"hold": ("held", "Held"), "reject": ("rejected", "Rejected")}
    if stopped is None and any(step["state"] != "done" for step in document["steps"]):
        step = next(step for step in document["steps"] if step["state"] != "done")
        is_now = "is at work, or was killed" if step["state"] == "begun" else "has not run"
        return {"state": "unfinished", "sentence": f"Not finished: {step['step']} {is_now}"}
    if stopped is None:
        serves = any(pipeline.step(step["step"]).server == "Triton" for step in document["steps"])
        state, did = ("served", "Promoted and served") if serves else ("promoted", "Promoted")
        ready = [s["version"] for s in serving or [] if s["state"] == "READY"]
        if not champion or champion["model"] != model:
            now = f"version {champion['version']} is champion" if champion else "there is no champion"
            return {"state": "replaced", "sentence": f"{did}, but by now {now}"}
        if serving is not None and champion["version"] not in ready:
            reason = f"Triton does not serve version {champion['version']} now; next: regraft doctor --repair"
            return {"state": "not served", "sentence": f"Promoted, not served: {reason}"}
        cached = "; all of it was there already" if all(step["cached"] for step in document["steps"]) else ""
        return {"state": state, "sentence": f"{did}: version {champion['version']}{cached}"}
    reason = " ".join((stopped["reason"] or "no reason was left behind").split())
    done = {step["step"] for step in document["steps"] if step["state"] == "done"}
    if any(step.approval and step.name in done for step in pipeline.STEPS):
        return {"state": "not served", "sentence": f"Promoted, not served: {reason}"}
    if stopped["state"] == "failed":
        return {"state": "failed", "sentence": f"Failed in {stopped['step']}: {reason}"}
    if stopped["refused_by"] == "approval":
        return {"state": "waiting", "sentence": f"Not promoted yet: {reason}"}
    if stopped["refused_by"] == "gate" and verdict and verdict["verdict"] in words:
        state, word = words[verdict["verdict"]]
        prefix = f"{verdict['verdict'].capitalize()}: "
        return {"state": state, "sentence": f"{word}: {reason.removeprefix(prefix)}"}
    return {"state": "refused", "sentence": f"Refused by {stopped['step']}: {reason}"}


def steps(store: Store, run: str, declared: Recipe | None) -> list[dict[str, Any]]:
    """State, cost and reason of each step of a run, in order; of all steps where the recipe cannot be read."""
    entries: list[dict[str, Any]] = []
    stopped = False
    for step in pipeline.steps(declared.task) if declared else pipeline.STEPS:
        entry: dict[str, Any] = dict.fromkeys(
            ("identity", "digest", "seconds", "cost", "foreseen", "reason", "refused_by", "recipe_sha256")
        )
        entry |= {"step": step.name, "state": "skipped" if stopped else "not run", "cached": False}
        with suppress(NotFound):
            if not stopped:
                pointer = store.pointer(run, step.name)
                entry |= pointer.model_dump(include={"state", "identity", "cached", "seconds", "recipe_sha256"})
                entry["reason"] = pointer.error
        manifest = store.manifest(f"{step.name}/{entry['identity']}") if entry["identity"] else None
        if manifest:
            entry |= {"digest": manifest.digest, "reason": manifest.refused, "refused_by": manifest.refused_by}
            entry["cost"] = manifest.cost.model_dump() if manifest.cost else None
            entry["foreseen"] = manifest.foreseen
        stopped = stopped or entry["state"] in ("refused", "failed")
        entries.append(entry)
    return entries


def _judged(store: Store, manifest: Manifest) -> dict[str, Any] | None:
    """The verdict among the outputs of a step, or None."""
    if "verdict.json" not in manifest.outputs:
        return None
    with suppress(RegraftError):
        content = store.output(manifest, "verdict.json")
        return Verdict.read(content, where=store.where(f"{manifest.step}/{manifest.identity}")).values
    return None


def _view(store: Store, manifests: Mapping[str, Manifest | None], name: str) -> str | None:
    """Where a person opens a view, which one step makes: a path on a local store, a URL on another."""
    manifest = next((made for made in manifests.values() if made and name in made.views), None)
    if manifest is None:
        return None
    key = f"{manifest.step}/{manifest.identity}/{manifest.attempt}/{name}"
    return store.where(key) if "://" in store.url else str(Path(store.path(key)).absolute())


def _registry_page(mlflow: str | None, name: str, version: int | None) -> str | None:
    return f"{mlflow}/#/models/{name}/versions/{version}" if mlflow and version else None


class _Golden(BaseModel):
    rows: list[dict[str, Any]]


def prediction(address: str, declared: Recipe, store: Store, model: str) -> dict[str, Any] | None:
    """One answer of Triton, to a row of the champion's holdout."""
    kept = [name for name in store.names("golden") if name.startswith(model)]
    if not kept:
        return None
    task = tasks.of(declared.task)
    try:
        golden = store.read_as(f"golden/{kept[-1]}", _Golden)
    except BadInput:  # of regraft 0.1, before the next deploy; or damaged, which deploy says
        return None
    rows = [row for row in golden.rows[:20] if isinstance(row.get("text"), str)]
    if not rows:
        return None
    row = max(rows, key=lambda row: len(row["text"]) if len(row["text"]) < 120 else 0)
    infer = servers.generate if tasks.streams(declared.task) else servers.infer
    answer = infer(address, declared.name, task.asked(row))
    if not answer:
        return None
    version, outputs = answer
    said = task.said(declared, row, outputs)
    return {"text": row["text"], **said, "short": task.short(said), "version": version}


def render(document: dict[str, Any]) -> RenderableType:
    """The facts of a run for a terminal."""
    from rich.console import Group
    from rich.panel import Panel

    parts = [_headline(document), _verdict(document), _now(document), _costs(document), _links(document)]
    title = f"[bold]{document['recipe']}[/]  run {document['run']}"
    return Panel(Group(*(part for part in parts if part)), title=title, title_align="left", padding=(1, 2))


def _headline(document: dict[str, Any]) -> RenderableType:
    from rich.markup import escape
    from rich.text import Text

    ended = document["outcome"]
    first, _, rest = ended["sentence"].partition(": ")
    colour = f"bold {COLOURS[ended['state']]}"
    lines = [f"[{colour}]{escape(first)}[/]" + (f": {escape(rest)}" if rest else "")]
    for warning in (document["deployed"] or {}).get("warnings", []):
        lines.append(f"[yellow]![/] {escape(warning)}")
    return Text.from_markup("\n".join(lines))


def _verdict(document: dict[str, Any]) -> RenderableType | None:
    verdict = document["verdict"]
    if not verdict:
        return None
    return verdicts.terminal(
        verdicts.said(verdict), sentence=verdict["verdict"] == "promote"
    )  # else the headline has it


def _now(document: dict[str, Any]) -> RenderableType:
    from rich.markup import escape
    from rich.text import Text

    lines = [""]
    if document["registered"]:
        lines.append(f"registered  version {document['registered']} of {document['recipe']} in MLflow")
    champion = document["champion"]
    if champion:
        lines.append(f"champion    version {champion['version']}, entry {champion['sequence']} of the ledger")
    else:
        lines.append("champion    none yet")
    if document["serving"] is not None:
        states = ", ".join(f"version {s['version']} {s['state']}" for s in document["serving"])
        lines.append(f"Triton      {states or 'serves no version of it'}")
    if precision := (document["deployed"] or {}).get("precision"):
        lines.append(f"served as   {escape(str(precision))}")
    said = document["prediction"]
    if said:
        lines.append(f"live        “{escape(said['text'])}” → [bold]{escape(said['short'])}[/]")
    return Text.from_markup("\n".join(lines))


def _costs(document: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(1, 3, 0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("step")
    for name in ("seconds", "CPU s", "peak MB"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.padding = (0, 3, 0, 0)
    for step in document["steps"]:
        cost = step["cost"] if not step["cached"] else None
        numbers = ["", "", ""]
        if cost:
            numbers = [f"{cost['seconds']:.1f}", f"{cost['cpu_seconds']:.1f}", f"{cost['peak_memory_bytes'] / 1e6:.0f}"]
        elif step["seconds"] is not None:
            numbers[0] = f"{step['seconds']:.2f}"
        note = "cached" if step["cached"] else step["state"] if step["state"] != "done" else ""
        if cost and step.get("foreseen"):
            note = f"foreseen {step['foreseen']}"
        table.add_row(MARKS[step["state"]], step["step"], *numbers, f"[dim]{note}[/]")
    return table


def _links(document: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    text = Text("\n")
    for name, link in document["open"].items():
        if link:
            text.append(f"{name:<14}").append(f"{link}\n", style=f"cyan link {link}" if "://" in link else "cyan")
    text.rstrip()
    return text
