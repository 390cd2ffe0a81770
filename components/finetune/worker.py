"""What torchrun starts once a GPU: the same training as in one process, with the first worker keeping the books."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from components.finetune import train, training_log
from regraft import escaped, locations, pipeline, snapshot
from regraft.errors import RegraftError
from regraft.step import Work
from regraft.store import Store


def main() -> None:
    """Trains as `by_torchrun` has written it down, and leaves beside it what went wrong."""
    escaped.stderr(locations.as_written)  # torchrun writes it as it comes; in a pod nobody reads it before people do
    file = Path(sys.argv[1])
    order = json.loads(file.read_text())
    store = Store(order["store"], order["recipe"])
    rank = int(os.environ["RANK"])
    own = file.parent if rank == 0 else file.parent / f"worker-{rank}"  # two must not download to one place
    own.mkdir(exist_ok=True)
    context = Work(
        recipe=snapshot.by_digest(store, order["recipe_sha256"]),
        store=store,
        run=order["run"],
        step=pipeline.step("finetune"),
        scratch=own,
        identity=order["identity"],
        inputs=order["inputs"],
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: context.on_terminate and context.on_terminate())
    try:
        with training_log.mlflow_run(context) if rank == 0 else training_log.no_run() as log:
            train.train(context, log=log, home=file.parent)
    except Exception as raised:
        error = raised if isinstance(raised, RegraftError) else RegraftError(f"a bug in regraft: {raised!r}")
        if error is not raised:
            traceback.print_exc()
        if rank == 0:
            report = {key: getattr(error, key) for key in ("exit", "what", "where", "state", "next")}
            (file.parent / "error.json").write_text(json.dumps(report))
        sys.exit(error.exit)


if __name__ == "__main__":
    main()
