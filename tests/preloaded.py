"""Steps as children of one process that has imported what they take long to import: of a tiny step that is most of it.

    python -m tests.preloaded

It reads a line of JSON for each step: `module`, `arguments`, `environment`, `folder` and `log`, the file that takes
what the step says; forks, runs the module as `python -m` does, and answers with a line, the status that it ended with.
A step that is to be killed, or has other libraries' settings, is started as a process of its own; so are all steps
that a runner starts: of tests/e2e, tests/kubeflow and tests/airflow.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

OURS = ("REGRAFT_", "MLFLOW_", "AWS_", "PYTEST_")
"""Variables that are read when a step runs, and not while libraries are imported."""
SECONDS = 300
"""After which a step is stopped."""


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may count while libraries are imported."""
    return {name: value for name, value in environment.items() if not name.startswith(OURS)}


@cache
def _server() -> tuple[subprocess.Popen[str], dict[str, str]]:
    """The process, started when it is first needed, and the settings that it was started with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.preloaded"],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process, _settings(environment)


def run(module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> int | None:
    """Exit code of a module, negative where a signal ended it; None where it needs a process of its own."""
    process, settings = _server()
    if _settings(environment) != settings or process.stdin is None or process.stdout is None:
        return None
    told = {"module": module, "arguments": arguments, "environment": dict(environment), "folder": os.getcwd()}
    try:
        process.stdin.write(json.dumps({**told, "log": str(log)}) + "\n")
        process.stdin.flush()
        return os.waitstatus_to_exitcode(int(process.stdout.readline()))
    except BaseException:  # such as pytest's timeout: the next answer would be this step's
        process.kill()
        _server.cache_clear()
        raise


def _child(order: dict[str, Any]) -> int:
    """Runs the module, and gives its exit code."""
    os.setsid()
    signal.alarm(SECONDS)
    with open(order["log"], "wb") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.path[0] = order["folder"]
    sys.argv = [order["module"], *order["arguments"]]
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    import accelerate  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import mlflow.pyfunc  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sacrebleu  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    if threading.active_count() > 1:
        raise RuntimeError(f"a process with threads cannot be forked: {threading.enumerate()}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = _child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        answers.write(f"{os.waitpid(pid, 0)[1]}\n")
        answers.flush()


if __name__ == "__main__":
    main()
