"""A recipe as a Kubeflow pipeline: compiled to IR YAML, and submitted to a Kubeflow Pipelines server.

Each step is a container component that runs `regraft.runners.kubeflow_pod`, which starts the step as everywhere and
turns its exit code into the output `outcome`. What follows a step stands in a condition on it, since Kubeflow knows
success and failure only: after a refusal the rest is skipped and the run succeeds. Only this file imports kfp.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from regraft import escaped, pipeline, recipe, sources
from regraft.errors import BadInput, RegraftError, Temporary
from regraft.parts import Recipe, Resources, Schedule
from regraft.runners.cluster import PIPELINE_LABELS, Cluster, Placement

BACKOFF_SECONDS = 60


def compile_recipe(path: str | Path, out: str | Path, *, cluster: Cluster) -> Recipe:
    """Writes the pipeline of a recipe as IR YAML; the same recipe and cluster give the same bytes.

    The recipe is the default of a pipeline parameter, so that it travels with the pipeline, each run shows which one it
    had, and Kubeflow's UI offers it for editing (as JSON: text of several lines does not survive there).

    Raises:
        BadInput: the recipe does not hold, kfp is not installed, or the file cannot be written.
    """
    declared = recipe.load(path, environment={**os.environ, **cluster.environment})
    _require_kfp()
    from kfp import compiler, dsl

    raw = Path(path).read_bytes()
    # kfp takes no null in a parameter, Kubeflow does: until the file is written, a word of no recipe stands for it.
    nothing = f"null-{hashlib.sha256(raw).hexdigest()[:16]}"
    content = _filled(yaml.safe_load(raw), nothing)

    def flow(*values: Any) -> None:
        parameters = dict(zip(("store", "recipe", "run"), values, strict=True))
        parameters["scheduled"] = dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER
        parameters["job"] = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        recorder = _component("record", cluster.image_of(pipeline.STEPS[0].name))(**parameters)  # each run has that
        _equip(recorder, cluster, cluster.placement(None), Resources(cpu=0.5, memory="512Mi"))
        with dsl.ExitHandler(recorder, name="run"):
            _chain(pipeline.steps(declared.task), declared, cluster, parameters)

    _sign(
        flow,
        store=(str, cluster.store or inspect.Parameter.empty),
        recipe=(dict, content),
        run=(str, ""),
    )
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        description = escaped.markdown(f"{declared.description} ({declared.owner})", length=5000)
        describe = dsl.pipeline(name=declared.name, description=description)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(describe(flow), str(made))
            text = made.read_text(encoding="utf-8")
    body = text[text.index("\ncomponents:\n") + 1 :]  # kfp's header names the keys of dicts in a random order
    body = body.replace(nothing, "null")
    header = f"# The Kubeflow pipeline of the recipe {declared.name}, made by `regraft compile`: do not edit.\n"
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(header + body, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"cannot be written: {error.strerror}", where=str(out), next="give another file to -o"
        ) from error
    return declared


def _filled(value: Any, nothing: str) -> Any:
    """A document with a word in place of each null."""
    if isinstance(value, dict):
        return {key: _filled(inner, nothing) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, nothing) for inner in value]
    return nothing if value is None else value


def _chain(steps: tuple[pipeline.Step, ...], declared: Recipe, cluster: Cluster, parameters: dict[str, Any]) -> None:
    """The first of the steps, and the others on the condition that it was not refused."""
    from kfp import dsl, kubernetes

    step, rest = steps[0], steps[1:]
    task = _component(step.name, cluster.image_of(step.name), judges=step.judges)(**parameters)
    _equip(task, cluster, cluster.placement(step.name), pipeline.resources(declared, step))
    kubernetes.add_pod_label(task, "regraft/recipe", declared.name)
    for label, value in {"regraft/step": step.name, **PIPELINE_LABELS}.items():
        kubernetes.add_pod_label(task, label, value)
    kubernetes.set_timeout(task, step.timeout_minutes * 60)
    task.set_retry(cluster.retries, backoff_duration=f"{BACKOFF_SECONDS}s", backoff_factor=2)
    if rest:
        with dsl.If(task.outputs["outcome"] == "done", name=f"{step.name}-done"):
            _chain(rest, declared, cluster, parameters)


def _component(name: str, image: str, *, judges: bool = False) -> Any:
    """The container component of a step, or of the exit handler `record`."""
    from kfp import dsl

    ports: dict[str, Any] = {"recipe": dict, **dict.fromkeys(("store", "run", "scheduled", "job"), str)}
    if name == "record":
        ports["status"] = dsl.PipelineTaskFinalStatus
    else:
        ports |= {"outcome": dsl.OutputPath(str), "reason": dsl.OutputPath(str), "metrics": dsl.Output[dsl.Metrics]}
    if judges:
        ports |= {"verdict": dsl.Output[dsl.Markdown], "report": dsl.Output[dsl.HTML]}

    def container(*values: Any) -> Any:
        passed = dict(zip(ports, values, strict=True))
        shown = [word for port in ("verdict", "report") if port in passed for word in (f"--{port}", passed[port].path)]
        command = ["python", "-m", "regraft.runners.kubeflow_pod", name]
        return dsl.ContainerSpec(
            image=image, command=command, args=[dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, *shown]
        )

    container.__name__ = name
    _sign(container, **{port: (kind, inspect.Parameter.empty) for port, kind in ports.items()})
    return dsl.container_component(container)


def _sign(function: Any, **parameters: tuple[Any, Any]) -> None:
    """Gives a function the signature (type and default by name) that kfp makes its interface from."""
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=default)
            for name, (kind, default) in parameters.items()
        ]
    )


def _equip(task: Any, cluster: Cluster, placement: Placement, resources: Resources) -> None:
    """Gives a task what its pod needs. Kubeflow's own cache is off: the store caches."""
    from kfp import kubernetes

    task.set_caching_options(False)
    cpu = f"{round(resources.cpu * 1000)}m"
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.gpu:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(resources.gpu)
    for name, value in placement.environment.items():
        task.set_env_variable(name, value)
    for name, keys in placement.config_maps.items():
        kubernetes.use_config_map_as_env(task, config_map_name=name, config_map_key_to_env={key: key for key in keys})
    for name, keys in placement.secrets.items():
        kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env={key: key for key in keys})
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    user = cluster.run_as_user
    kubernetes.set_security_context(task, run_as_user=user, run_as_group=user, run_as_non_root=True)
    # no more can be said of the context; its launcher writes all over the root file system
    kubernetes.empty_dir_mount(task, volume_name="scratch-tmp", mount_path="/tmp", size_limit=placement.scratch)  # noqa: S108
    if resources.gpu > 1:  # their processes exchange gradients by shared memory, of which a pod has 64 MB
        memory = {"medium": "Memory", "size_limit": resources.memory}
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", **memory)  # noqa: S108
    for name, value in placement.node_selector.items():
        kubernetes.add_node_selector(task, label_key=name, label_value=value)
    for toleration in placement.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    for claim, path in placement.volumes.items():
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path=path)


def cron(schedule: Schedule, *, cluster: Cluster) -> str:
    """Kubeflow's six-field cron expression (seconds first) of a recipe's schedule.

    Raises:
        BadInput: Kubeflow would run it at other times than the recipe says.
    """
    if schedule.cron is None:
        raise BadInput(
            "Kubeflow starts runs by cron only, not when an asset changes",
            where="schedule.asset",
            next="write schedule.cron instead, or schedule this recipe with Airflow",
        )
    if schedule.timezone != cluster.timezone:
        raise BadInput(
            f"Kubeflow runs all schedules in one time zone, {cluster.timezone}; the recipe says {schedule.timezone}",
            where="schedule.timezone",
            next="write the schedule in that zone, or set CRON_SCHEDULE_TIMEZONE of Kubeflow's "
            "ml-pipeline-scheduledworkflow and `timezone` in the cluster's settings",
        )
    return f"0 {schedule.cron}"


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What `submit` did: `change` says whether something was created, replaced or already as it should be."""

    change: Literal["created", "replaced", "unchanged", "started"]
    id: str
    version: str
    url: str


def submit(path: str | Path, *, host: str, cluster: Cluster, schedule: bool, namespace: str | None = None) -> Submitted:
    """Starts one run of a recipe on a Kubeflow Pipelines server or, with `schedule`, makes its recurring run be there.

    The pipeline is uploaded as a version named by the digest of its YAML, so submitting twice changes nothing. Kubeflow
    cannot change a recurring run: a new one takes its place, paused if the old one was; then the old one goes.

    Args:
        host: URL of the server; the environment variable KFP_TOKEN holds a bearer token where it asks for one.

    Raises:
        BadInput: the recipe has no schedule, or the server refuses.
        Temporary: the server is not there.
    """
    host = host.rstrip("/")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        declared = compile_recipe(path, package, cluster=cluster)
        if cluster.store is None:
            raise BadInput(
                "the cluster's settings name no store", next="write `store:` into them, and pass --cluster FILE"
            )
        if schedule and declared.schedule is None:
            raise BadInput("the recipe has no schedule", where=str(path), next="add one, such as cron: '0 3 * * 1'")
        expression = cron(declared.schedule, cluster=cluster) if schedule and declared.schedule else ""
        with _talking_to(host):
            client = _client(host, namespace)
            experiment = client.create_experiment(declared.name, namespace=namespace).experiment_id
            reference = _upload(client, declared.name, package, namespace)
            if schedule:
                return _schedule(client, declared.name, expression, reference, experiment, host, cluster)
            run = client.run_pipeline(
                experiment, declared.name, service_account=cluster.service_account, params={}, **reference
            )
    version = reference["version_id"]
    return Submitted(change="started", id=run.run_id, version=version, url=f"{host}/#/runs/details/{run.run_id}")


def _client(host: str, namespace: str | None) -> Any:
    from kfp.client import Client

    return Client(host=host, namespace=namespace or "kubeflow", existing_token=os.environ.get("KFP_TOKEN"))


def _upload(client: Any, name: str, package: Path, namespace: str | None) -> dict[str, str]:
    """The ids of the pipeline and of its version that has these bytes; uploads what is not there."""
    version = hashlib.sha256(package.read_bytes()).hexdigest()[:16]
    pipelines = client.list_pipelines(filter=_named(name), namespace=namespace).pipelines
    if not pipelines:
        pipelines = [client.upload_pipeline(str(package), pipeline_name=name, namespace=namespace)]
    pipeline_id = pipelines[0].pipeline_id
    versions = client.list_pipeline_versions(pipeline_id, page_size=100, filter=_named(version)).pipeline_versions or []
    if not versions:
        versions = [client.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id)]
    return {"pipeline_id": pipeline_id, "version_id": versions[0].pipeline_version_id}


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _schedule(
    client: Any, name: str, expression: str, reference: dict[str, str], experiment: str, host: str, cluster: Cluster
) -> Submitted:
    listed = client.list_recurring_runs(experiment_id=experiment, page_size=100, filter=_named(name))
    schedules = listed.recurring_runs or []

    def right(run: Any) -> bool:
        return (
            run.pipeline_version_reference is not None
            and run.pipeline_version_reference.pipeline_version_id == reference["version_id"]
            and run.trigger.cron_schedule is not None
            and run.trigger.cron_schedule.cron == expression
            and bool(run.no_catchup)
            and int(run.max_concurrency) == 1
            and (run.service_account or None) == cluster.service_account
        )

    kept = next((run for run in schedules if right(run)), None)
    made = kept or client.create_recurring_run(
        experiment,
        name,
        cron_expression=expression,
        no_catchup=True,
        max_concurrency=1,
        params={},
        service_account=cluster.service_account,
        enabled=not schedules or any(run.mode != "DISABLE" for run in schedules),
        **reference,
    )
    for old in schedules:
        if old.recurring_run_id != made.recurring_run_id:
            client.delete_recurring_run(old.recurring_run_id)
    return Submitted(
        change="unchanged" if kept else "replaced" if schedules else "created",
        id=made.recurring_run_id,
        version=reference["version_id"],
        url=f"{host}/#/recurringrun/details/{made.recurring_run_id}",
    )


@contextmanager
def _talking_to(host: str) -> Iterator[None]:
    """Turns what can go wrong on the way to the server into our errors, and keeps kfp's own prints off stdout."""
    from kfp_server_api import ApiException

    if not re.match(r"https?://", host):
        raise BadInput(f"{host!r} is not the URL of a Kubeflow Pipelines server, such as http://127.0.0.1:8080")
    hint = "check --host; from outside the cluster: kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80"
    try:  # kfp's client tries for a minute before it says so
        token = os.environ.get("KFP_TOKEN")
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked above
            f"{host}/apis/v2beta1/healthz", headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise _refused(host, error.code, error.reason) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Temporary(f"no Kubeflow Pipelines server answers: {reason}", where=host, next=hint) from error
    except ValueError as error:
        raise BadInput(
            "what answers is not the API of Kubeflow Pipelines; it may be a login page",
            where=host,
            next=f"set KFP_TOKEN, or {hint}",
        ) from error
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ApiException as error:
        raise _refused(host, error.status, _message(error)) from error
    except Exception as error:
        if sources.unreachable(error):
            raise Temporary(f"the server went away: {error}", where=host, next="repeat the command") from error
        raise


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _refused(host: str, status: int, reason: str) -> RegraftError:
    if status in (401, 403):
        return BadInput(
            f"the server refuses access ({status} {reason})",
            where=host,
            next="set KFP_TOKEN to a bearer token, and --namespace where Kubeflow has several users",
        )
    if status >= 500:
        return Temporary(f"the server failed ({status} {reason})", where=host, next="repeat the command")
    return BadInput(f"the server refuses ({status} {reason})", where=host)


def _require_kfp() -> None:
    try:
        import kfp.kubernetes  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"Kubeflow's client is not in this environment: {error}",
            next="make kfp, then .venv-kfp/bin/regraft; elsewhere pip install 'regraft[kfp]'",
        ) from error
