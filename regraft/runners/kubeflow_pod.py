"""Inside a Kubeflow pod: starts a step the one way steps start, and tells Kubeflow what became of it.

    python -m regraft.runners.kubeflow_pod evaluate '{"inputs": ...}' --report FILE

The JSON is what KFP puts in place of {{$}}: parameter values, and where outputs go. Kubeflow knows success and failure
only, and repeats whatever fails, so this turns the exit codes of a step into what it can express:

- done and refused end with 0; the output `outcome` says which, and `reason` why.
- temporary, and death by a signal, end as they are: Kubeflow starts the step again.
- bad input and bugs end as they are, too, and leave a mark: the repetitions that Kubeflow insists on end at once. The
  exit handler takes the marks away.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from regraft import pipeline, recipe, settings
from regraft.errors import AlreadyExists, Exit, NotFound, RegraftError
from regraft.recipe import Recipe
from regraft.step import result_of
from regraft.store import Manifest, Store


def main() -> int:
    """Runs a step, or `record`, the exit handler; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m regraft.runners.kubeflow_pod")
    parser.add_argument("step", choices=[*(s.name for s in pipeline.STEPS), "record"])
    parser.add_argument("executor_input", type=json.loads)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    given = arguments.executor_input["inputs"]["parameterValues"]
    text = yaml.safe_dump(given["recipe"], sort_keys=False, allow_unicode=True)
    try:
        mend = "start the run again with a recipe that holds: regraft validate RECIPE, then regraft submit RECIPE"
        declared = recipe.parse(text, where="the pipeline's parameter `recipe`", next=mend)
        store = Store(given["store"], declared.name)
        run, started = _run_of(store, given, declared)
        if arguments.step == "record":
            for step in pipeline.STEPS:  # or the button Retry, pressed when the cause is mended, would do nothing
                store.remove(_mark(given["job"], step.name))
            return _record(store, run, started, given.get("status"))
        mark = _mark(given["job"], arguments.step)
        with suppress(NotFound):
            before = store.read_json(mark)
            print(f"{arguments.step}: not tried again: it ended with {before['exit']} before", file=sys.stderr)
            return int(before["exit"])
        code = _start(arguments.step, text, given, declared, run)
        if code in (Exit.BAD_INPUT, Exit.BUG):
            store.replace(mark, json.dumps({"exit": code}).encode())
        if code in (Exit.DONE, Exit.REFUSED):
            _show(store, run, arguments.step, declared, arguments.executor_input["outputs"], arguments.report)
            return Exit.DONE
        return code
    except RegraftError as error:
        print(f"{arguments.step}: {error}", file=sys.stderr)
        return error.exit


def _mark(job: str, step: str) -> str:
    return f"kubeflow/{job}/{step}.json"


def _run_of(store: Store, given: dict[str, str], declared: Recipe) -> tuple[str, datetime]:
    """The run id of a Kubeflow run, and when its first pod started. The first pod decides, all others read.

    It is the parameter `run` where that is given, else the run that was due when Kubeflow scheduled this one; servers
    before 2.17 do not say when that was, and then the first pod's clock counts.
    """
    key = f"kubeflow/{given['job']}/run.json"
    now = datetime.now(UTC)
    try:
        due = datetime.fromisoformat(given["scheduled"])
    except ValueError:
        due = now
    run = given["run"] or pipeline.run_id(declared, due)
    pipeline.run_time(run)
    try:
        store.create(key, json.dumps({"run": run, "at": now.isoformat()}).encode())
    except AlreadyExists:
        document = store.read_json(key)
        return document["run"], datetime.fromisoformat(document["at"])
    return run, now


def _start(step: str, text: str, given: dict[str, str], declared: Recipe, run: str) -> int:
    """Runs the step's own command; SIGTERM reaches it, so that it can save its work."""
    with tempfile.TemporaryDirectory(prefix="regraft-", dir=settings.scratch()) as folder:
        file = Path(folder) / f"{declared.name}.yaml"
        file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", f"components.{step}"]
        command += ["--recipe", str(file), "--store", given["store"], "--run", run]
        print(shlex.join(["python", *command[1:]]), file=sys.stderr, flush=True)
        environment = {"REGRAFT_WHO": f"kubeflow run {given['job']}", **os.environ}
        process = subprocess.Popen(command, env=environment)

        def forward(signum: int, frame: FrameType | None) -> None:
            process.send_signal(signum)

        signal.signal(signal.SIGTERM, forward)
        code = process.wait()
        return code if code >= 0 else 128 - code


def _show(store: Store, run: str, step: str, declared: Recipe, outputs: dict[str, Any], report: Path | None) -> None:
    """Writes the step's outputs where Kubeflow looks for them: its UI shows metrics, confusion matrix and report."""
    manifest = result_of(store, step, store.read_json(f"runs/{run}/{step}.json")["identity"])
    parameters = {"outcome": "refused" if manifest.refused else "done", "reason": manifest.refused or ""}
    for name, value in parameters.items():
        _write(outputs["parameters"][name]["outputFile"], value)
    metadata = {"metrics": _numbers({**manifest.metrics, **manifest.measured})}
    with tempfile.TemporaryDirectory(prefix="regraft-", dir=settings.scratch()) as folder:
        if "confusion" in outputs["artifacts"]:
            metadata["confusion"] = _confusion(store, manifest, declared, Path(folder))
        if report is not None and "report.html" in manifest.views:
            files = store.fetch(f"{step}/{manifest.identity}", manifest, Path(folder), only=("report.html",))
            _write(report, (files / "report.html").read_text(encoding="utf-8"))
    artifacts = {}
    for name, content in metadata.items():
        artifact = outputs["artifacts"][name]["artifacts"][0]
        artifacts[name] = {"artifacts": [{"name": artifact["name"], "uri": artifact["uri"], "metadata": content}]}
    _write(outputs["outputFile"], json.dumps({"artifacts": artifacts}))


def _write(file: str | Path, text: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")


def _numbers(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The numbers in nested metrics, by their path: Kubeflow shows flat ones only."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = value
    return flat


def _confusion(store: Store, manifest: Manifest, declared: Recipe, folder: Path) -> dict[str, Any]:
    """Rows of true labels, columns of predicted ones, in the form of `ClassificationMetrics.log_confusion_matrix`."""
    if "predictions.parquet" not in manifest.outputs:
        return {}
    import pyarrow.parquet

    labels = declared.data.labels
    columns = [f"challenger.p{i}" for i in range(len(labels))]
    files = store.fetch(f"evaluate/{manifest.identity}", manifest, folder, only=("predictions.parquet",))
    rows = pyarrow.parquet.read_table(files / "predictions.parquet", columns=["label", *columns])
    counts = [[0] * len(labels) for _ in labels]
    for true, *given in zip(*(rows[name].to_pylist() for name in ("label", *columns)), strict=True):
        counts[true][given.index(max(given))] += 1
    matrix = {"annotationSpecs": [{"displayName": x} for x in labels], "rows": [{"row": row} for row in counts]}
    return {"confusionMatrix": matrix}


def _record(store: Store, run: str, started: datetime, status: Any) -> int:
    """Says in the store which step failed where the step could not: its pod was killed, or never started."""
    status = json.loads(status) if isinstance(status, str) else status or {}
    state = str(status.get("state", "unknown"))
    print(f"run {run}: Kubeflow says {state}", file=sys.stderr)
    for step in pipeline.STEPS:
        pointer: dict[str, Any] = {}
        with suppress(NotFound):
            pointer = store.read_json(f"runs/{run}/{step.name}.json")
        current = bool(pointer) and datetime.fromisoformat(pointer["at"]) >= started
        if current and pointer["state"] == "done":
            continue
        if current:
            print(f"{step.name}: {pointer['state']}: {pointer.get('error', '')}", file=sys.stderr)
        elif state != "SUCCEEDED":
            message = re.sub(r"\s+", " ", str(status.get("error", {}).get("message", ""))).strip()
            failure = {
                "step": step.name,
                "run": run,
                "at": datetime.now(UTC).isoformat(),
                "state": "failed",
                "error": f"its pod did not end by itself; Kubeflow says {state}{': ' + message if message else ''}",
                "next": "look at the pod's events in Kubeflow, then start the run again: it resumes",
                "exit": int(Exit.TEMPORARY),
            }
            store.replace(f"runs/{run}/{step.name}.json", json.dumps(failure, indent=1).encode())
            print(f"{step.name}: {failure['error']}", file=sys.stderr)
        break
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
