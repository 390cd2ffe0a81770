"""Stand-ins of the components: the contract of real steps without their work, for tests of what runs them.

A file `<marks>/<step>.mode` says how a step behaves; `<marks>/log` tells which ones worked and registered.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from regraft.errors import BadInput, Temporary
from regraft.ledger import Moved
from regraft.step import Context, Outcome, main

MARKS = Path(os.environ["STUB_MARKS"])
BEFORE = {"finetune": "validate", "evaluate": "finetune", "promote": "evaluate", "deploy": "promote"}


def write(line: str) -> None:
    with (MARKS / "log").open("a") as file:
        file.write(line + "\n")


def inputs(context: Context) -> dict[str, str]:
    before = BEFORE.get(context.step.name)
    if before is None:
        return {"window": context.run.split(".")[0]}
    return {"before": context.result(before).identity}


def work(context: Context) -> Outcome:
    step = context.step.name
    file = MARKS / f"{step}.mode"
    mode = file.read_text() if file.exists() else ""
    write(f"started {step} {context.run}")
    context.progress(0.5, "half way")
    if mode == "temporary once":
        file.unlink()
        raise Temporary("the server is away", next="wait")
    if mode == "sleep once":
        file.unlink()
        (MARKS / "pid").write_text(str(os.getpid()))
        time.sleep(3600)
    if mode == "kill once":
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "bad":
        raise BadInput("the data is not there", next="bring it")
    (context.out / "result.json").write_text(json.dumps({"step": step, "run": context.run.split(".")[0]}))
    outcome = Outcome(metrics={"f1_macro": 0.9}, refused="too few rows" if mode == "refuse" else None)
    if step == "evaluate":
        sentence = "f1_macro 0.9000 is better than the champion's 0.8800"
        metrics = {"f1_macro": 0.9, "accuracy": 0.91}
        gates = [{"name": "floors", "passed": True, "sentence": "accuracy 0.91 is at least 0.75"}]
        champion = {"version": 1, "metrics": {"f1_macro": 0.88}}
        verdict = {"verdict": "promote", "sentence": sentence, "challenger": {"metrics": metrics}}
        (context.out / "verdict.json").write_text(json.dumps({**verdict, "champion": champion, "gates": gates}))
        (context.out / "report.html").write_text("<h1>report</h1>")
        outcome.views = ("report.html",)
    if step == "promote":
        if context.recipe.promotion == "approval":
            outcome.refused = "waiting for approval"
        else:
            promote(context)
    write(f"worked {step} {context.run}")
    return outcome


def promote(context: Context) -> None:
    model, evaluation = context.result("finetune").identity, context.result("evaluate").identity
    while not any(entry.model == model for entry in context.ledger.entries()):
        head = context.ledger.head()
        version = head.version + 1 if head else 1
        try:
            context.ledger.append(
                head,
                kind="promote",
                version=version,
                model=model,
                run=context.run,
                evaluation=evaluation,
                reason="better",
            )
        except Moved:
            continue
        write(f"registered {version}")


if __name__ == "__main__":
    main(sys.argv.pop(1), inputs=inputs, work=work)
