"""Steps as Airflow tasks: the operator that starts a process, exit codes as task states, links, and notices.

A refused step is skipped and so is all that follows; a temporary failure is tried again; bad input and bugs fail at
once, since trying again is useless.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from airflow.sdk import Asset, BaseOperator, BaseOperatorLink, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from regraft import escaped, locations, pipeline, process, servers, settings
from regraft.errors import BadInput, Exit, RegraftError
from regraft.manifest import Manifest
from regraft.parts import Recipe
from regraft.store import Store

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

PATIENCE_SECONDS = 5.0
"""How long each link and notice of a task that is over may ask the store and MLflow. Airflow kills a task that lives on
for `core.task_success_overtime` (20 s) after its last word, and a skip that was not recorded by then is tried again."""


def end(step: str, code: int, said: str, *, skips: bool = True) -> None:
    """Turns a step's exit code into what Airflow does next.

    Args:
        code: exit code; negative or above 128 when a signal ended it.
        said: the step's last words.
        skips: whether a refusal is a skip; the doctor's is a failure: something could not be mended.
    """
    if code == Exit.DONE:
        return
    if code == Exit.REFUSED and skips:
        raise AirflowSkipException(said or f"{step} was refused by a gate")
    if by := process.killed(code):
        said = f"{step}: {by}\n{said}".strip()
    if code == Exit.TEMPORARY or by:
        raise AirflowException(f"{said or f'{step} failed'}\n(exit code {code}: it is tried again)")
    raise AirflowFailException(f"{said or f'{step} failed'}\n(exit code {code}: trying again is useless)")


class StepProcess(BaseOperator):
    """Runs `python -m <module> --recipe FILE <arguments>` on this machine, in the components' environment.

    Args:
        module: such as components.finetune.
        recipe: the recipe's text.
        arguments: what follows `--recipe FILE`.
        environment: variables beside those of the worker.
        python: the interpreter of the components' environment.
        skips: whether a refusal is a skip; see `end`.
    """

    template_fields = ("recipe", "arguments", "environment")
    template_fields_renderers = {"recipe": "yaml", "environment": "py"}  # noqa: RUF012 - as Airflow declares it
    ui_color = "#e8f0e3"

    def __init__(
        self,
        *,
        module: str,
        recipe: str,
        arguments: list[str],
        environment: dict[str, str],
        python: str,
        skips: bool = True,
        links: tuple[BaseOperatorLink, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.module = module
        self.recipe = recipe
        self.arguments = arguments
        self.environment = environment
        self.python = python
        self.skips = skips
        self.operator_extra_links = links
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> None:
        try:
            below = settings.scratch()
        except BadInput as error:
            useless(error)
        name = self.module.split(".")[1]
        with tempfile.TemporaryDirectory(prefix="regraft-", dir=below) as folder:
            file = Path(folder) / "recipe.yaml"
            file.write_text(self.recipe, encoding="utf-8")
            command = process.command(self.module, file, self.arguments, python=self.python)
            self.log.info("$ %s", " ".join(command))
            # Airflow ends the task's process group as one, so the step stays in it.
            variables = {**pipeline.variables(pipeline.step(name), _without_airflow()), **self.environment}
            with process.started(command, variables, group=False) as self._process:
                orphaned = threading.Thread(target=_end_when_orphaned, args=(self._process, os.getppid()), daemon=True)
                orphaned.start()
                ended = process.followed(self._process, say=lambda line: self.log.info("%s", line.rstrip()))
        words = ended.words[-6:]
        first = next((i for i, line in enumerate(words) if line.startswith(f"{name}: ")), len(words) - 1)
        end(name, ended.exit, "\n".join(words[max(first, 0) :]), skips=self.skips)
        if "--run" in self.arguments and (result := manifest(*_store_and_run(self), name)):
            self.log.info("%s: done: %s", name, json.dumps(result.metrics))

    def on_kill(self) -> None:
        """Passes the end of the task on as SIGTERM, and waits until the step has saved its work."""
        if self._process is not None:
            process.stop(self._process)


def chained(declared: Recipe, tasks: list[Any]) -> None:
    """Puts the tasks of a recipe one behind the other, and its DAG behind that of its base model.

    The last task updates the asset champion://NAME, the first reads that of the recipe whose champion is the base.
    """
    chain(*tasks)
    tasks[-1].add_outlets([Asset(f"{locations.CHAMPION}{declared.name}")])
    if locations.champion(declared.base_model.source):
        tasks[0].add_inlets([Asset(declared.base_model.source)])


def _end_when_orphaned(running: subprocess.Popen[str], parent: int) -> None:
    """Ends a step whose worker was killed: Airflow's task process lives on then, and so would the step, beside its
    own repetition."""
    while running.poll() is None:
        if os.getppid() != parent:
            running.terminate()
            return
        time.sleep(1)


def _without_airflow() -> dict[str, str]:
    """This process's environment without Airflow's own settings, which hold its secrets."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "_AIRFLOW")) and k != "PYTHONHOME"}


def manifest(store: Store, run: str, step: str) -> Manifest | None:
    """The result of a step in a run; None where there is none or the store does not answer."""
    with suppress(RegraftError, OSError):
        return store.manifest(f"{step}/{store.pointer(run, step).identity}")
    return None


def _soon(ask: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """What a question to the servers gives; None where that takes longer than `PATIENCE_SECONDS`."""
    answers: list[Answer] = []
    # A server that hangs cannot be told to stop.
    asking = threading.Thread(target=lambda: answers.append(ask(*arguments)), daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return answers[0] if answers else None


def _store_and_run(operator: Any) -> tuple[Store, str]:
    """The store of a task's recipe and its run, from the arguments that every step gets."""
    options = dict(zip(operator.arguments[::2], operator.arguments[1::2], strict=False))
    return Store(options["--store"], operator.dag.dag_id), options["--run"]


class MlflowLink(BaseOperatorLink):
    """The MLflow run of the run's finetune."""

    name = "MLflow run"

    def __init__(self, tracking: str) -> None:
        self.tracking = tracking.rstrip("/")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _soon(mlflow_url, self.tracking, *_store_and_run(operator)) or f"{self.tracking}/#/experiments"


def mlflow_url(server: str, store: Store, run: str) -> str:
    """Address of the MLflow run of a run's finetune; of the list of experiments where it cannot be found."""
    trained = manifest(store, run, "finetune")
    if trained is not None and server.startswith("http"):
        return servers.training_run(server, store.recipe, trained.identity)
    return f"{server}/#/experiments"


class ReportLink(BaseOperatorLink):
    """The HTML report of the evaluation."""

    name = "Report"

    def __init__(self, tracking: str) -> None:
        self.tracking = tracking.rstrip("/")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _soon(report_url, self.tracking, *_store_and_run(operator)) or ""


class DataLink(BaseOperatorLink):
    """The data page of the validation."""

    name = "Data page"

    def __init__(self, tracking: str) -> None:
        self.tracking = tracking.rstrip("/")

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _soon(_page_url, self.tracking, *_store_and_run(operator), "validate", "data.html") or ""


def report_url(tracking: str, store: Store, run: str) -> str:
    """Where the report of a run's evaluation is; empty before there is one."""
    return _page_url(tracking, store, run, "evaluate", "report.html")


def _page_url(tracking: str, store: Store, run: str, step: str, view: str) -> str:
    """Where a page is that a step of a run made; empty before there is one.

    MLflow has a copy once the run is evaluated, which is preferred: browsers do not follow links from Airflow to files
    or buckets.
    """
    made = manifest(store, run, step)
    if made is None or view not in made.views:
        return ""
    mlflow_run = mlflow_url(tracking, store, run) if manifest(store, run, "evaluate") else ""
    if "/runs/" in mlflow_run:
        return f"{mlflow_run}/artifacts/evaluation/{view}"
    where = store.where(f"{step}/{made.identity}/{made.attempt}/{view}")
    return where if "://" in where else Path(where).absolute().as_uri()


class TritonLink(BaseOperatorLink):
    """The model as Triton serves it."""

    name = "Triton model"

    def __init__(self, urls: str) -> None:
        self.first = urls.split(",")[0]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return f"http://{self.first}/v2/models/{operator.dag.dag_id}"


def links(step: pipeline.Step, tracking: str, triton: str) -> tuple[BaseOperatorLink, ...]:
    """The links of a step's task, as far as there are servers to link to.

    Args:
        tracking: MLFLOW_TRACKING_URI, or nothing.
        triton: REGRAFT_TRITON_URLS, or nothing.
    """
    possible = {
        "data page": DataLink(tracking),
        "MLflow run": MlflowLink(tracking) if tracking.startswith("http") else None,
        "report": ReportLink(tracking),
        "Triton model": TritonLink(triton) if triton else None,
    }
    return tuple(link for page in step.pages if (link := possible[page]))


def tell(text: str) -> None:
    """Tells people: one line in the log and, where REGRAFT_WEBHOOK is set, a message that Slack understands too."""
    log.warning("notice: %s", escaped.lines(text).replace("\n", " | "))
    webhook = os.environ.get("REGRAFT_WEBHOOK")
    if webhook:
        try:
            request = urllib.request.Request(  # noqa: S310 - the address comes from the settings
                webhook,
                data=json.dumps({"text": escaped.slack(text)}).encode(),
                headers={"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
        except (OSError, ValueError) as error:  # a notice that is lost must not fail a task
            log.error("the webhook of REGRAFT_WEBHOOK did not take the notice: %s", type(error).__name__)


def notice(what: str) -> Callable[[Any], None]:
    """A callback that tells what became of a task: its recipe, the reason and the page with its log."""

    def callback(context: Any) -> None:
        task = context["task_instance"]
        reason = str(context.get("exception") or "").strip()
        if not reason and hasattr(context["task"], "arguments"):  # Airflow does not say why it skipped
            result = _soon(manifest, *_store_and_run(context["task"]), task.task_id)
            reason = (result and result.refused) or ""
        lines = [f"{task.dag_id}: {task.task_id} {what}", reason, f"log: {getattr(task, 'log_url', '')}"]
        tell("\n".join(line for line in lines if line))

    return callback


async def late(*, recipe: str, context: Any = None) -> None:
    """Called by Airflow's triggerer when a run is not over at its deadline."""
    import asyncio

    run = (context or {}).get("dag_run", {})
    run_id = run.get("dag_run_id") or run.get("run_id") if isinstance(run, dict) else getattr(run, "run_id", "")
    await asyncio.to_thread(tell, f"{recipe}: run {run_id} is not over at its deadline (schedule.deadline)")


def useless(error: RegraftError) -> NoReturn:
    """Fails the task for good."""
    raise AirflowFailException(escaped.lines(str(error))) from error
