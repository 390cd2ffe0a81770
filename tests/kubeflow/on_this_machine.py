"""Runs a compiled pipeline for real with kfp.local, without containers: each image stands for an environment.

    .venv-kfp/bin/python tests/kubeflow/on_this_machine.py FILE --python .venv/bin/python --root FOLDER --set store=...

For tests and benchmarks. kfp 2.17 has no public way to do this, so five of its inner parts are changed here:

- SubprocessRunner refuses container components; its task handler is replaced by one that starts the container's command
  with the Python of the environment that the image stands for.
- A condition on an output that is not called `Output` counts as false locally; on a server it is right.
- The placeholder of the scheduled time makes it stop; `--scheduled` is put in its place, as a server does.
- It waits a minute before a retry; here it does not.
- A null within a parameter makes it stop, as in `early_stopping: null`; a server takes it.

Prints one JSON line: whether the run succeeded, and of each container its step, exit code and seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.modules["docker"] = None  # type: ignore[assignment]  # the folder docker/ of this checkout would pass for it

from google.protobuf import struct_pb2  # noqa: E402
from kfp import components, dsl, local  # noqa: E402
from kfp.local import executor_input_utils, status, subprocess_task_handler  # noqa: E402
from kfp.local.orchestrator import enhanced_dag_orchestrator  # noqa: E402

IMAGES = "regraft-"


def use_environments(python: str, folder: str) -> list[dict[str, Any]]:
    """Makes kfp.local start commands with `python` in `folder`; gives the list in which it notes what it started."""
    started: list[dict[str, Any]] = []

    class Handler:
        def __init__(self, image: str, full_command: list[str], env_vars: dict[str, str], **_: Any) -> None:
            assert image.startswith(IMAGES), f"no environment stands for the image {image}"
            assert full_command[0] == "python"
            self.command, self.environment, self.image = [python, *full_command[1:]], env_vars, image

        def run(self) -> status.Status:
            begin = time.monotonic()
            code = subprocess_task_handler.run_local_subprocess(
                ["env", "-C", folder, *self.command], env_vars=self.environment
            )
            seconds = time.monotonic() - begin
            started.append({"step": self.command[3], "image": self.image, "code": code, "seconds": seconds})
            return status.Status.FAILURE if code else status.Status.SUCCESS

    subprocess_task_handler.SubprocessTaskHandler = Handler
    return started


def resolve_named_outputs() -> None:
    """Makes conditions find outputs of any name, not only `Output`."""
    evaluator = enhanced_dag_orchestrator.ConditionEvaluator
    original = evaluator._resolve_pipeline_channel

    def resolve(reference: str, io_store: Any) -> Any:
        task, _, output = reference.removeprefix("pipelinechannel--").rpartition("-")
        try:
            return io_store.get_task_output(task, output)
        except (KeyError, ValueError):
            return original(reference, io_store)

    evaluator._resolve_pipeline_channel = staticmethod(resolve)


def take_nulls() -> None:
    """Makes a parameter that has a null in it one that can be given."""
    builder = executor_input_utils.pipeline_spec_builder
    original = builder.to_protobuf_value
    null = struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    builder.to_protobuf_value = lambda value: null if value is None else original(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--root", required=True, help="a folder for what kfp.local writes; steps run in it")
    parser.add_argument("--scheduled", default="2026-11-24T03:00:00Z")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of a pipeline parameter")
    arguments = parser.parse_args()
    text = arguments.file.read_text()
    text = text.replace(dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER, arguments.scheduled)
    text = text.replace("backoffDuration: 60s", "backoffDuration: 0s")
    Path(arguments.root).mkdir(parents=True, exist_ok=True)
    started = use_environments(arguments.python, arguments.root)
    resolve_named_outputs()
    take_nulls()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=f"{arguments.root}/outputs", raise_on_error=True)
    begin = time.monotonic()
    try:
        components.load_component_from_text(text)(**dict(item.split("=", 1) for item in arguments.set))
        succeeded = True
    except RuntimeError as error:
        print(error, file=sys.stderr)
        succeeded = False
    print(json.dumps({"succeeded": succeeded, "started": started, "seconds": time.monotonic() - begin}))


if __name__ == "__main__":
    main()
