"""Inside a Kubeflow pod: starts a step the one way steps start, and tells Kubeflow what became of it.

    python -m regraft.runners.kubeflow_pod evaluate '{"inputs": ...}' --verdict FILE --report FILE

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
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pydantic import AwareDatetime, BaseModel

from regraft import escaped, pipeline, process, recipe, settings, verdicts
from regraft.errors import AlreadyExists, Exit, NotFound, RegraftError
from regraft.gate import Verdict
from regraft.manifest import Pointer
from regraft.parts import Recipe
from regraft.step import result_of
from regraft.store import Store


class _Began(BaseModel):
    """What the first pod of a Kubeflow run leaves for the others."""

    run: str
    at: AwareDatetime


class _Ended(BaseModel):
    """The mark of a step that is not to be tried again."""

    exit: int


def main() -> int:
    """Runs a step, or `record`, the exit handler; gives the exit code."""
    escaped.stderr()
    parser = argparse.ArgumentParser(prog="python -m regraft.runners.kubeflow_pod")
    parser.add_argument("step", choices=[*(s.name for s in pipeline.STEPS), "record"])
    parser.add_argument("executor_input", type=json.loads)
    parser.add_argument("--verdict", type=Path)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    parameters = arguments.executor_input["inputs"]["parameterValues"]
    text = yaml.safe_dump(parameters["recipe"], sort_keys=False, allow_unicode=True)
    try:
        mend = "start the run again with a recipe that holds: regraft check RECIPE, then regraft submit RECIPE"
        declared = recipe.parse(text, where="the pipeline's parameter `recipe`", next=mend)
        store = Store(parameters["store"], declared.name)
        run, started = _run_of(store, parameters, declared)
        if arguments.step == "record":
            for step in pipeline.STEPS:  # or the button Retry, pressed when the cause is mended, would do nothing
                store.remove(_mark(parameters["job"], step.name))
            return _record(store, declared.task, run, started, parameters.get("status"))
        mark = _mark(parameters["job"], arguments.step)
        with suppress(NotFound):
            before = store.read_as(mark, _Ended)
            print(f"{arguments.step}: not tried again: it ended with {before.exit} before", file=sys.stderr)
            return before.exit
        code = _start(arguments.step, text, parameters, declared, run)
        if code in (Exit.BAD_INPUT, Exit.BUG):
            store.replace(mark, json.dumps({"exit": code}).encode())
        if code in (Exit.DONE, Exit.REFUSED):
            outputs = arguments.executor_input["outputs"]
            _show(store, run, arguments.step, outputs, arguments.verdict, arguments.report)
            return Exit.DONE
        return code
    except RegraftError as error:
        print(f"{arguments.step}: {error}", file=sys.stderr)
        return error.exit


def _mark(job: str, step: str) -> str:
    return f"kubeflow/{job}/{step}.json"


def _run_of(store: Store, parameters: dict[str, str], declared: Recipe) -> tuple[str, datetime]:
    """The run id of a Kubeflow run, and when its first pod started. The first pod decides, all others read.

    It is the parameter `run` where that is given, else the run that was due when Kubeflow scheduled this one; servers
    before 2.17 do not say when that was, and then the first pod's clock counts.
    """
    key = f"kubeflow/{parameters['job']}/run.json"
    now = datetime.now(UTC)
    try:
        due = datetime.fromisoformat(parameters["scheduled"])
    except ValueError:
        due = now
    run = parameters["run"] or pipeline.run_id(declared, due)
    pipeline.run_time(run)
    try:
        store.create(key, json.dumps({"run": run, "at": now.isoformat()}).encode())
    except AlreadyExists:
        began = store.read_as(key, _Began)
        pipeline.run_time(began.run)
        return began.run, began.at
    return run, now


def _start(step: str, text: str, parameters: dict[str, str], declared: Recipe, run: str) -> int:
    """Runs the step's own command; SIGTERM reaches it, so that it can save its work."""
    with tempfile.TemporaryDirectory(prefix="regraft-", dir=settings.scratch()) as folder:
        file = Path(folder) / f"{declared.name}.yaml"
        file.write_text(text, encoding="utf-8")
        arguments = process.arguments(store=parameters["store"], run=run)
        command = process.command(pipeline.step(step).module, file, arguments)
        print(shlex.join(["python", *command[1:]]), file=sys.stderr, flush=True)
        environment = {"REGRAFT_WHO": f"kubeflow run {parameters['job']}", **os.environ}
        with process.started(command, environment) as running:

            def forward(signum: int, frame: FrameType | None) -> None:
                running.send_signal(signum)

            signal.signal(signal.SIGTERM, forward)
            code = process.followed(running, say=partial(print, end="", file=sys.stderr, flush=True)).exit
        if by := process.killed(code):
            print(f"{step}: {by}", file=sys.stderr)
        return code if code >= 0 else 128 - code


def _show(
    store: Store, run: str, step: str, outputs: dict[str, Any], verdict: Path | None, report: Path | None
) -> None:
    """Writes the step's outputs where Kubeflow looks for them: its UI shows metrics, verdict and report."""
    pointer = store.pointer(run, step)
    refused = pointer.refused or pointer.error or ""
    for name, value in {"outcome": "refused" if refused else "done", "reason": refused}.items():
        _write(outputs["parameters"][name]["outputFile"], value)
    if pointer.identity is None:  # refused before there was anything to show
        return
    manifest = result_of(store, step, pointer.identity)
    if verdict is not None and "verdict.json" in manifest.outputs:
        values: dict[str, Any] = {}
        with suppress(RegraftError):  # what is shown says so
            content = store.output(manifest, "verdict.json")
            values = Verdict.read(content, where=store.where(f"{step}/{manifest.identity}")).values
        _write(verdict, verdicts.markdown(verdicts.said(values)))
    if report is not None and "report.html" in manifest.views:
        _write(report, store.output(manifest, "report.html").decode(errors="replace"))
    metrics = outputs["artifacts"]["metrics"]["artifacts"][0]
    numbers = _numbers({**manifest.metrics, **manifest.measured})
    shown = {"name": metrics["name"], "uri": metrics["uri"], "metadata": numbers}
    _write(outputs["outputFile"], json.dumps({"artifacts": {"metrics": {"artifacts": [shown]}}}))


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


def _record(store: Store, task: str, run: str, started: datetime, status: Any) -> int:
    """Says in the store which step failed where the step could not: its pod was killed, or never started."""
    status = json.loads(status) if isinstance(status, str) else status or {}
    state = str(status.get("state", "unknown"))
    print(f"run {run}: Kubeflow says {state}", file=sys.stderr)
    for step in pipeline.steps(task):
        pointer: Pointer | None = None
        with suppress(NotFound):
            pointer = store.pointer(run, step.name)
        if pointer and (pointer.at is None or pointer.at < started):
            pointer = None
        if pointer and pointer.state == "done":
            continue
        if pointer and pointer.state != "begun":
            print(f"{step.name}: {pointer.state}: {pointer.error or ''}", file=sys.stderr)
        elif state != "SUCCEEDED":
            message = re.sub(r"\s+", " ", str(status.get("error", {}).get("message", ""))).strip()
            failure = {
                **(pointer.model_dump(exclude_none=True) if pointer else {}),
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
