"""Trains the challenger: a fresh adapter on the recipe's base model, from the data that validate froze."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

from regraft import pipeline, sources
from regraft.errors import BadInput, RegraftError, Temporary
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

    # Sums depend on how many threads share them, and digests on sums; where there are fewer cores, torch takes fewer.
    torch.set_num_threads(math.ceil(pipeline.resources(context.recipe, context.step).cpu))
    with tracking.mlflow_run(context) as log:
        processes = min(pipeline.resources(context.recipe, context.step).gpu, torch.cuda.device_count())
        if processes > 1:
            log.close()  # the first of the workers logs
            _by_torchrun(context, processes)
        else:
            train.train(context, log=log)
    return train.outcome(context)


def _by_torchrun(context: Context, processes: int) -> None:
    """Runs `train` in several processes, forwards SIGTERM to them and takes over how they ended."""
    arguments = [str(context.scratch), context.store.url, context.run, context.identity]
    (context.scratch / "recipe.json").write_text(context.recipe.model_dump_json())
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *("-m", "components.finetune.worker", *arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    context.on_terminate = worker.terminate
    code = worker.wait()
    report = Path(context.scratch, "worker-error.txt")
    what = report.read_text() if report.exists() else f"a training process ended with exit code {code}"
    if code and (report.exists() or code < 0):
        raise Temporary(what, next="repeat the command: it resumes from the last checkpoint")
    if code:
        raise RegraftError(what, next="see the lines above")
    if not (context.out / "adapter").exists():
        raise BadInput("training ended without an adapter", where=str(context.out))
