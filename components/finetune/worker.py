"""What torchrun starts once a GPU: the same training as in one process, with the first worker keeping the books."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from components.finetune import tracking, train
from regraft import pipeline
from regraft.errors import Temporary
from regraft.recipe import Recipe
from regraft.step import Context
from regraft.store import Store


def main() -> None:
    scratch, url, run, identity = sys.argv[1:]
    recipe = Recipe.model_validate_json(Path(scratch, "recipe.json").read_text())
    context = Context(
        recipe=recipe,
        store=Store(url, recipe.name),
        run=run,
        step=pipeline.step("finetune"),
        scratch=Path(scratch),
        identity=identity,
    )
    signal.signal(signal.SIGTERM, lambda *_: context.on_terminate and context.on_terminate())
    first = os.environ.get("RANK") == "0"
    try:
        with tracking.mlflow_run(context) if first else tracking.no_run() as log:
            train.train(context, log=log)
    except Temporary as error:
        if first:
            Path(scratch, "worker-error.txt").write_text(error.what)
        sys.exit(error.exit)


if __name__ == "__main__":
    main()
