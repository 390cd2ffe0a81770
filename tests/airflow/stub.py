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

from regraft import approval
from regraft.errors import BadInput, Temporary
from regraft.ledger import Moved, whoami
from regraft.step import Context, Outcome, Work, main

MARKS = Path(os.environ["STUB_MARKS"])
BEFORE = {"finetune": "validate", "evaluate": "finetune", "promote": "evaluate", "deploy": "promote"}


def write(line: str) -> None:
    with (MARKS / "log").open("a") as file:
        file.write(line + "\n")


def inputs(context: Context) -> dict[str, str]:
    before = BEFORE.get(context.step.name)
    if before is None:
        return {"window": context.run.split(".")[0]}
    found = {"before": context.result(before).identity}
    if context.step.name == "promote" and context.recipe.promotion == "approval":
        about = {step: context.result(step).identity for step in ("finetune", "evaluate")}
        record = approval.asked(context.store, model=about["finetune"], evaluation=about["evaluate"], run=context.run)
        found["approval"] = record.digest if record else "none"
    return found


def work(context: Work) -> Outcome:
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
    outcome = Outcome(metrics={"f1_macro": 0.9})
    if mode == "refuse":
        outcome.refused, outcome.refused_by = "too few rows", "gate"
    if step == "validate":
        (context.out / "data.html").write_text("<h1>data</h1>")
        outcome.views = ("data.html",)
    if step == "evaluate":
        sentence = "f1_macro 0.9000 is better than the champion's 0.8800"
        metrics = {"f1_macro": 0.9, "accuracy": 0.91}
        gates = [{"name": "floors", "passed": True, "sentence": "accuracy 0.91 is at least 0.75"}]
        challenger = {"model": "b", "metrics": metrics, "intervals": {}}
        champion = {"model": "a", "version": 1, "metrics": {"f1_macro": 0.88}, "intervals": {}}
        verdict = {"verdict": "promote", "sentence": sentence, "challenger": challenger, "champion": champion}
        verdict |= {"metric": "f1_macro", "rows": {"holdout": 5, "clean": 5, "contaminated": 0}, "gates": gates}
        (context.out / "verdict.json").write_text(json.dumps({**verdict, "difference": None, "slices": []}))
        (context.out / "report.html").write_text("<h1>report</h1>")
        outcome.views = ("report.html",)
    if step == "promote":
        if context.inputs.get("approval") == "none":
            outcome.refused, outcome.refused_by = "waiting for approval", "approval"
        else:
            promote(context)
    write(f"worked {step} {context.run}")
    return outcome


def promote(context: Work) -> None:
    model, evaluation = context.result("finetune").identity, context.result("evaluate").identity
    record = approval.of(context.store, model=model, evaluation=evaluation)
    who = f"{whoami()}, approved by {record.who}" if record else whoami()
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
                who=who,
            )
        except Moved:
            continue
        write(f"registered {version}")


if __name__ == "__main__":
    main(sys.argv.pop(1), inputs=inputs, work=work)
