"""Trains the challenger: a fresh adapter on the recipe's base model, from the data that validate froze."""

from __future__ import annotations

import json
import math
import subprocess
import sys

from regraft import pipeline, sources
from regraft.errors import BadInput, Exit, RegraftError, Temporary
from regraft.step import Context, Outcome


def inputs(context: Context) -> dict[str, str]:
    """Digests of all that training reads."""
    data = context.result("validate")
    base = context.recipe.base_model
    digests = {
        "train": data.outputs["train.parquet"].sha256,
        "dev": data.outputs["dev.parquet"].sha256,
        "base_model": sources.base_model_digest(base.source, base.revision),
    }
    if context.recipe.training.warm_start:
        champion = context.ledger.before(context.run)
        digests["warm_start"] = champion.model if champion else "none"
    return digests


def work(context: Context) -> Outcome:
    """Trains in this process, or by torchrun in one process a GPU where the recipe asks for several."""
    import torch

    from components.finetune import tracking, train

    wanted = pipeline.resources(context.recipe, context.step)
    # Sums depend on how many threads share them, and digests on sums; where there are fewer cores, torch takes fewer.
    torch.set_num_threads(math.ceil(wanted.cpu))
    there = torch.cuda.device_count()
    if there < wanted.gpu:
        text = f"finetune: resources ask for {wanted.gpu} GPUs, and torch finds {there}: training on "
        print(text + ("those" if there else "the CPU"), file=sys.stderr, flush=True)
    processes = min(wanted.gpu, there)
    if processes > 1:
        by_torchrun(context, processes)
    else:
        with tracking.mlflow_run(context) as log:
            train.train(context, log=log, home=context.scratch)
    return train.outcome(context)


def by_torchrun(context: Context, processes: int) -> None:
    """Trains in several processes on this machine, forwards SIGTERM to them and takes over how they ended.

    Raises:
        RegraftError: what the first of them raised.
    """
    task = context.scratch / "torchrun.json"
    told = {
        "recipe": context.recipe.name,
        "store": context.store.url,
        "run": context.run,
        "identity": context.identity,
        "inputs": context.inputs,
    }
    task.write_text(json.dumps(told))
    torchrun = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *("-m", "components.finetune.worker", str(task)),
        ],
    )
    context.on_terminate = torchrun.terminate
    code = torchrun.wait()
    report = context.scratch / "error.json"
    if report.exists():
        error = json.loads(report.read_text())
        kind = {Exit.BAD_INPUT: BadInput, Exit.TEMPORARY: Temporary}.get(error.pop("exit"), RegraftError)
        raise kind(error.pop("what"), **error)
    if code:
        raise Temporary(
            f"a training process died; torchrun ended with {code}",
            state="what it had saved is in the store",
            next="see the lines above; repeat the command: it resumes from the last checkpoint",
        )
