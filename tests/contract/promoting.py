"""What tests of promote share: the step as a process, what MLflow says, champions made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from components.promote import follow
from regraft import tracking
from regraft.errors import Exit
from regraft.ledger import Entry
from tests import challengers
from tests.worlds import RUN, Tiny

Promote = Callable[..., Exit]


def patched(tiny: Tiny, patch: str, *, run: str = RUN) -> tuple[int, str]:
    """Exit code and output of the step as a process in which `patch` was executed first."""
    code = f"import os, runpy, signal\n{patch}\nrunpy.run_module('components.promote', run_name='__main__')"
    command = [sys.executable, "-c", code, "--recipe", str(tiny.recipe), "--store", tiny.store.url, "--run", run]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


def followed(tiny: Tiny, *more: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "components.promote.follow", "--recipe", str(tiny.recipe), *more]
    done = subprocess.run([*command, "--store", tiny.store.url], capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def aliases(client: Any) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model("tiny").aliases.items()}


def versions(client: Any) -> list[int]:
    return sorted(int(version.version) for version in client.search_model_versions("name = 'tiny'"))


def tags(client: Any, version: int) -> dict[str, str]:
    return dict(client.get_model_version("tiny", str(version)).tags)


def champion(tiny: Tiny, client: Any, name: str, right: float, run: str) -> Entry:
    """Makes a challenger made by hand champion, in the ledger and in MLflow, as promote would."""
    model = challengers.make(tiny, name, run=run, right=right, opponent=None)
    run_id = tracking.run_of(client, "tiny", model.identity, run)
    if "tiny" not in {registered.name for registered in client.search_registered_models()}:
        client.create_registered_model("tiny")
    evaluation = tiny.pointer("evaluate", run)["identity"]
    about = {tracking.IDENTITY_TAG: model.identity, "regraft.verdict": "promote", "regraft.run": run}
    (logged,) = client.search_logged_models(
        [client.get_run(run_id).info.experiment_id],
        filter_string=f"tags.`{tracking.IDENTITY_TAG}` = '{model.identity}'",
    )
    source = f"models:/{logged.model_id}"
    made = client.create_model_version("tiny", source=source, run_id=run_id, model_id=logged.model_id, tags=about)
    entry = tiny.ledger.append(
        tiny.ledger.head(),
        kind="promote",
        version=int(made.version),
        model=model.identity,
        run=run,
        evaluation=evaluation,
        reason=f"test: {name}",
    )
    follow.repair(client, tiny.ledger, "tiny")
    return entry


def roll_back(tiny: Tiny) -> Entry:
    previous = tiny.ledger.previous()
    assert previous is not None
    told = previous.model_dump(include={"version", "model", "run", "evaluation"})
    return tiny.ledger.append(tiny.ledger.head(), kind="rollback", reason="test", **told)
