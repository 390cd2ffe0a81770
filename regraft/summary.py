"""What became of a run, as data (`facts`) and as text for a terminal (`render`)."""

from __future__ import annotations

import json
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import pipeline, stack
from regraft.errors import NotFound, RegraftError
from regraft.ledger import Ledger
from regraft.recipe import Recipe
from regraft.store import Manifest, Store

if TYPE_CHECKING:
    from rich.console import RenderableType

MARKS = {
    "done": "[green]✔[/]",
    "refused": "[yellow]■[/]",
    "failed": "[red]✘[/]",
    "skipped": "[dim]-[/]",
    "not run": "[dim]·[/]",
}
COLOURS = {
    "served": "green",
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
    found = steps(store, run)
    document: dict[str, Any] = {"recipe": declared.name, "run": run, "store": store.url, "steps": found}
    manifests = {s["step"]: store.manifest(f"{s['step']}/{s['identity']}") for s in found if s["identity"]}
    evaluated, promoted = manifests.get("evaluate"), manifests.get("promote")
    document["stopped"] = next((s for s in found if s["state"] in ("refused", "failed")), None)
    # promote has one of its own where the champion had changed after the evaluation
    document["verdict"] = _output(store, promoted, "verdict.json") or _output(store, evaluated, "verdict.json")
    document["data"] = validated.metrics if (validated := manifests.get("validate")) else None
    document["registered"] = promoted.metrics.get("version") if promoted else None
    deployed = manifests.get("deploy")
    document["deployed"] = deployed.measured if deployed and not deployed.refused else None
    head = Ledger(store).head()
    document["champion"] = json.loads(head.model_dump_json()) if head else None
    triton = next(iter(endpoints.get("REGRAFT_TRITON_URLS", "").split(",")), "")
    document["serving"] = serving(triton, declared.name) if triton else None
    document["prediction"] = prediction(triton, declared, store, head.model) if triton and head else None
    model = trained.identity if (trained := manifests.get("finetune")) else None
    document["outcome"] = outcome(document, model)
    document["open"] = {
        "MLflow": _mlflow_page(endpoints.get("MLFLOW_TRACKING_URI"), declared.name, manifests.get("finetune")),
        "MLflow model": _registry_page(endpoints.get("MLFLOW_TRACKING_URI"), declared.name, document["registered"]),
        "report": _view(store, evaluated, "report.html"),
        "Data Docs": _view(store, manifests.get("validate"), "data_docs/index.html"),
        "Triton": f"http://{triton}/v2/models/{declared.name}" if triton else None,
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
        step = next(step["step"] for step in document["steps"] if step["state"] != "done")
        return {"state": "unfinished", "sentence": f"Not finished: {step} has not run"}
    if stopped is None:
        ready = [s["version"] for s in serving or [] if s["state"] == "READY"]
        if not champion or champion["model"] != model:
            now = f"version {champion['version']} is champion" if champion else "there is no champion"
            return {"state": "replaced", "sentence": f"Promoted and served, but by now {now}"}
        if serving is not None and champion["version"] not in ready:
            reason = f"Triton does not serve version {champion['version']} now; next: regraft doctor --repair"
            return {"state": "not served", "sentence": f"Promoted, not served: {reason}"}
        cached = "; all of it was there already" if all(step["cached"] for step in document["steps"]) else ""
        return {"state": "served", "sentence": f"Promoted and served: version {champion['version']}{cached}"}
    reason = " ".join((stopped["reason"] or "no reason was left behind").split())
    if stopped["step"] == "deploy":
        return {"state": "not served", "sentence": f"Promoted, not served: {reason}"}
    if stopped["state"] == "failed":
        return {"state": "failed", "sentence": f"Failed in {stopped['step']}: {reason}"}
    if verdict and verdict["verdict"] in words:
        state, word = words[verdict["verdict"]]
        prefix = f"{verdict['verdict'].capitalize()}: "
        return {"state": state, "sentence": f"{word}: {reason.removeprefix(prefix)}"}
    if stopped["step"] == "promote":
        return {"state": "waiting", "sentence": f"Not promoted yet: {reason}"}
    return {"state": "refused", "sentence": f"Refused by {stopped['step']}: {reason}"}


def steps(store: Store, run: str) -> list[dict[str, Any]]:
    """State, cost and reason of each step of a run, in order."""
    found: list[dict[str, Any]] = []
    stopped = False
    for step in pipeline.STEPS:
        entry: dict[str, Any] = dict.fromkeys(("identity", "digest", "seconds", "cost", "reason"))
        entry |= {"step": step.name, "state": "skipped" if stopped else "not run", "cached": False}
        with suppress(NotFound):
            pointer = {} if stopped else store.read_json(f"runs/{run}/{step.name}.json")
            if pointer:
                entry |= {key: pointer.get(key, entry[key]) for key in ("state", "identity", "cached", "seconds")}
                entry["reason"] = pointer.get("error")
        manifest = store.manifest(f"{step.name}/{entry['identity']}") if entry["identity"] else None
        if manifest:
            entry |= {"digest": manifest.digest, "reason": manifest.refused}
            entry["cost"] = manifest.cost.model_dump() if manifest.cost else None
        stopped = stopped or entry["state"] in ("refused", "failed")
        found.append(entry)
    return found


def _output(store: Store, manifest: Manifest | None, name: str) -> Any:
    """A JSON output of a step, or None."""
    if manifest is None or name not in manifest.outputs:
        return None
    with suppress(RegraftError, ValueError):
        return store.read_json(f"{manifest.step}/{manifest.identity}/{manifest.attempt}/{name}")
    return None


def _view(store: Store, manifest: Manifest | None, name: str) -> str | None:
    """Where a person opens a view: a path on a local store, a URL on another."""
    if manifest is None or name not in manifest.views:
        return None
    key = f"{manifest.step}/{manifest.identity}/{manifest.attempt}/{name}"
    return store.where(key) if "://" in store.url else str(Path(store.path(key)).absolute())


def _mlflow_page(tracking: str | None, name: str, trained: Manifest | None) -> str | None:
    """The MLflow run of a finetune, in MLflow's UI; the experiment or the start page where there is none."""
    if not tracking:
        return None
    api = f"{tracking}/api/2.0/mlflow"
    found = stack.ask(f"{api}/experiments/get-by-name?experiment_name={urllib.parse.quote(name)}")
    if not found or trained is None:
        return tracking
    experiment = found["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": f"tags.`regraft.identity` = '{trained.identity}'"}
    runs = (stack.ask(f"{api}/runs/search", body=query) or {}).get("runs", [])
    page = f"{tracking}/#/experiments/{experiment}"
    return f"{page}/runs/{runs[0]['info']['run_id']}" if runs else page


def _registry_page(tracking: str | None, name: str, version: int | None) -> str | None:
    return f"{tracking}/#/models/{name}/versions/{version}" if tracking and version else None


def serving(address: str, name: str) -> list[dict[str, Any]]:
    """The versions of a model that a Triton server has, newest first, each with its state.

    Args:
        address: host:port of Triton's HTTP endpoint.
    """
    index = stack.ask(f"http://{address}/v2/repository/index", body={}) or []
    found = [entry for entry in index if entry.get("name") == name and entry.get("version")]
    newest = sorted(found, key=lambda entry: -int(entry["version"]))
    return [
        {"version": int(e["version"]), "state": e.get("state", "UNKNOWN"), "reason": e.get("reason")} for e in newest
    ]


def prediction(address: str, declared: Recipe, store: Store, model: str) -> dict[str, Any] | None:
    """One answer of Triton, to a text of the champion's holdout."""
    try:
        golden = store.read_json(f"golden/{model}.json")
    except NotFound:
        return None
    text = max(golden["texts"][:20], key=lambda t: len(t) if len(t) < 120 else 0)
    body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}
    answer = stack.ask(f"http://{address}/v2/models/{declared.name}/infer", body=body)
    if not answer:
        return None
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return {
        "text": text,
        "label": outputs["label"][0],
        "probabilities": dict(zip(declared.data.labels, outputs["probabilities"], strict=True)),
        "version": int(answer["model_version"]),
    }


def render(document: dict[str, Any]) -> RenderableType:
    """The facts of a run for a terminal."""
    from rich.console import Group
    from rich.panel import Panel

    parts = [_verdict(document), _metrics(document), _now(document), _costs(document), _links(document)]
    title = f"[bold]{document['recipe']}[/]  run {document['run']}"
    return Panel(Group(*(part for part in parts if part)), title=title, title_align="left", padding=(1, 2))


def _verdict(document: dict[str, Any]) -> RenderableType:
    from rich.markup import escape
    from rich.text import Text

    verdict, ended = document["verdict"], document["outcome"]
    first, _, rest = ended["sentence"].partition(": ")
    colour = f"bold {COLOURS[ended['state']]}"
    lines = [f"[{colour}]{escape(first)}[/]" + (f": {escape(rest)}" if rest else "")]
    for warning in (document["deployed"] or {}).get("warnings", []):
        lines.append(f"[yellow]![/] {escape(warning)}")
    if verdict:
        if verdict["verdict"] == "promote":  # else the headline has it
            lines.append(escape(verdict["sentence"]))
        for gate in verdict.get("gates", []):
            mark = "[green]✔[/]" if gate["passed"] else "[red]✘[/]"
            lines.append(f"  {mark} {escape(gate.get('sentence') or gate['name'])}")
    return Text.from_markup("\n".join(lines))


def _metrics(document: dict[str, Any]) -> RenderableType | None:
    from rich.table import Table

    verdict = document["verdict"]
    if not verdict or not verdict.get("challenger"):
        return None
    table = Table(box=None, padding=(1, 3, 0, 0))
    table.add_column("")
    columns = {name: verdict[name] for name in ("challenger", "champion") if verdict.get(name)}
    for name, side in columns.items():
        version = side.get("version")
        table.add_column(f"{name} (version {version})" if version else name)
    for metric, value in verdict["challenger"]["metrics"].items():
        if isinstance(value, int | float):
            table.add_row(metric, *(_with_interval(side, metric) for side in columns.values()))
    difference = verdict.get("difference")
    if difference:
        confidence = f"{difference['confidence']:.0%} interval"
        span = (
            f"{difference['point']:+.3f}  [dim]{difference['low']:+.3f} to {difference['high']:+.3f}, {confidence}[/]"
        )
        table.add_row(f"difference in {verdict['metric']}", span)
    return table


def _with_interval(side: dict[str, Any], metric: str) -> str:
    value = side["metrics"].get(metric)
    if not isinstance(value, int | float):
        return "-"
    interval = (side.get("intervals") or {}).get(metric)
    low, high = (interval["low"], interval["high"]) if isinstance(interval, dict) else interval or (None, None)
    return f"{value:.3f}" + ("" if low is None or high is None else f"  [dim]{low:.3f} to {high:.3f}[/]")


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
        chance = said["probabilities"][said["label"]]
        lines.append(f"live        “{escape(said['text'])}” → [bold]{said['label']}[/] {chance:.0%}")
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
