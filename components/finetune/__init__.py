"""Trains the challenger: a fresh adapter on the recipe's base model, from the data that validate froze."""

from __future__ import annotations

import json
import math
import subprocess
import sys

from components.finetune import chain, replay
from regraft import bases, pipeline
from regraft.errors import BadInput, Exit, RegraftError, Temporary
from regraft.step import Context, Outcome, Work


def inputs(context: Context) -> dict[str, str]:
    """Digests of all that training reads."""
    data = context.result("validate")
    digests = {
        "train": data.outputs["train.parquet"].sha256,
        "dev": data.outputs["dev.parquet"].sha256,
        **bases.pinned(context),
    }
    return digests | chain.inputs(context, digests["base_model"]) | replay.inputs(context)


def work(context: Work) -> Outcome:
    """Trains in this process, or by torchrun in one process a GPU where the recipe asks for several."""
    import torch

    from components.finetune import train, training_log

    wanted = pipeline.resources(context.recipe, context.step)
    # Sums depend on how many threads share them, and digests on sums; where there are fewer cores, torch takes fewer.
    torch.set_num_threads(math.ceil(wanted.cpu))
    gpus = torch.cuda.device_count()
    if gpus < wanted.gpu:
        text = f"finetune: resources ask for {wanted.gpu} GPUs, and torch finds {gpus}: training on "
        print(text + ("those" if gpus else "the CPU"), file=sys.stderr, flush=True)
    processes = min(wanted.gpu, gpus)
    if processes > 1:
        by_torchrun(context, processes)
    else:
        with training_log.mlflow_run(context) as log:
            train.train(context, log=log, home=context.scratch)
    return train.outcome(context)


def by_torchrun(context: Work, processes: int) -> None:
    """Trains in several processes on this machine, forwards SIGTERM to them and takes over how they ended.

    Raises:
        RegraftError: what the first of them raised.
    """
    file = context.scratch / "torchrun.json"
    order = {
        "recipe": context.recipe.name,
        "store": context.store.url,
        "run": context.run,
        "recipe_sha256": context.recipe_sha256,
        "identity": context.identity,
        "inputs": context.inputs,
    }
    file.write_text(json.dumps(order))
    torchrun = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *("-m", "components.finetune.worker", str(file)),
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
