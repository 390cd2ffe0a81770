"""What torchrun starts once a GPU: the same training as in one process, with the first worker keeping the books."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from components.finetune import tracking, train
from regraft import pipeline
from regraft.errors import RegraftError
from regraft.step import Context, recipe_of
from regraft.store import Store


def main() -> None:
    """Trains as `by_torchrun` has written it down, and leaves beside it what went wrong."""
    task = Path(sys.argv[1])
    told = json.loads(task.read_text())
    store = Store(told["store"], told["recipe"])
    rank = int(os.environ["RANK"])
    own = task.parent if rank == 0 else task.parent / f"worker-{rank}"  # two must not download to one place
    own.mkdir(exist_ok=True)
    context = Context(
        recipe=recipe_of(store, told["run"]),
        store=store,
        run=told["run"],
        step=pipeline.step("finetune"),
        scratch=own,
        identity=told["identity"],
        inputs=told["inputs"],
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: context.on_terminate and context.on_terminate())
    try:
        with tracking.mlflow_run(context) if rank == 0 else tracking.no_run() as log:
            train.train(context, log=log, home=task.parent)
    except Exception as raised:
        error = raised if isinstance(raised, RegraftError) else RegraftError(f"a bug in regraft: {raised!r}")
        if error is not raised:
            traceback.print_exc()
        if rank == 0:
            report = {key: getattr(error, key) for key in ("exit", "what", "where", "state", "next")}
            (task.parent / "error.json").write_text(json.dumps(report))
        sys.exit(error.exit)


if __name__ == "__main__":
    main()
