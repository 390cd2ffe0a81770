"""Steps as Kubernetes pods. Importing this takes seconds, so it happens only where steps are pods."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException
from kubernetes.client.exceptions import ApiException

from regraft import pipeline, process
from regraft.errors import Exit
from regraft.parts import Resources
from regraft.runners import airflow_step
from regraft.runners.cluster import PIPELINE_LABELS, Cluster

RECIPE = "/recipe/recipe.yaml"
WRITE_RECIPE = f"import os; open('{RECIPE}', 'w', encoding='utf-8').write(os.environ['RECIPE'])"


class StepPod(KubernetesPodOperator):
    """A pod that runs a step; its exit code decides what Airflow does next, as with a process."""

    def __init__(self, *, skips: bool = True, links: tuple[BaseOperatorLink, ...] = (), **arguments: Any) -> None:
        super().__init__(skip_on_exit_code=int(Exit.REFUSED) if skips else None, **arguments)
        self.skips = skips
        self.operator_extra_links = links

    def cleanup(self, pod: Any, remote_pod: Any, *arguments: Any, **named: Any) -> None:
        """Called however the pod ended; what Kubernetes says of it last decides, not what it said at the start."""
        last = None
        with suppress(ApiException, AirflowException):
            last = self.pod_manager.read_pod(pod)
        try:
            super().cleanup(pod, last or remote_pod, *arguments, **named)
        except AirflowException:
            code, said = became(last, self.base_container_name, step=self.task_id)
            if last is not None and last.status.phase == "Pending":  # it must not start beside its repetition
                self.pod_manager.delete_pod(last)
            airflow_step.end(self.task_id, code, said, skips=self.skips)


def became(pod: Any, container: str, *, step: str) -> tuple[int, str]:
    """What became of a pod that did not succeed.

    Args:
        pod: as the Kubernetes API describes it last; None where it is gone.
        container: the container that runs the step.
        step: its name, for what is said.

    Returns:
        An exit code of `regraft.errors.Exit`, and what to tell people: the step's own last words where it had any.
    """
    if pod is None:
        return Exit.TEMPORARY, f"{step}: its pod was deleted before it ended"
    status = pod.status
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            asked = _limits(pod, container)
            return Exit.TEMPORARY, (
                f"{step}: no node takes its pod: {condition.message}\n  it asks for {asked}\n"
                f"  next: free or add such a node, or change resources.{step} in the recipe"
            )
    if status.reason:  # such as Evicted
        return Exit.TEMPORARY, f"{step}: its pod was ended by Kubernetes: {status.reason}: {status.message}"
    for each in status.container_statuses or []:
        waiting, ended = each.state and each.state.waiting, each.state and each.state.terminated
        if each.name != container:
            continue
        if waiting:
            return Exit.TEMPORARY, f"{step}: its pod does not start: {waiting.reason}: {waiting.message}"
        if ended and ended.reason == "OOMKilled":
            return Exit.BAD_INPUT, (
                f"{step}: was killed because it used more memory than its limit ({_limits(pod, container)})\n"
                f"  next: raise resources.{step}.memory in the recipe, then run it again: it resumes"
            )
        if ended:
            return ended.exit_code or Exit.TEMPORARY, (ended.message or "").strip()
    return Exit.TEMPORARY, f"{step}: its pod {pod.metadata.name} ended for no reason that Kubernetes tells"


def _limits(pod: Any, container: str) -> str:
    """The limits of a container, such as `cpu 4, memory 16Gi, nvidia.com/gpu 1`."""
    (limits,) = [c.resources.limits for c in pod.spec.containers if c.name == container]
    return ", ".join(f"{name} {amount}" for name, amount in sorted(limits.items()))


def pod(
    cluster: Cluster,
    *,
    step: pipeline.Step,
    resources: Resources,
    module: str,
    recipe: str,
    arguments: list[str],
    environment: dict[str, str],
    **task: Any,
) -> StepPod:
    """The pod of a step. The recipe travels in the pod itself: an init container writes it where the step reads it."""
    return StepPod(
        image=cluster.image_of(step.name),
        name=f"regraft-{step.name}",
        namespace=cluster.namespace,
        cmds=["python", "-m", module],
        arguments=["--recipe", RECIPE, *arguments],
        pod_template_dict=template(cluster, step=step, resources=resources, recipe=recipe, environment=environment),
        labels={"regraft/step": step.name},
        durable=True,
        do_xcom_push=False,
        on_finish_action="delete_succeeded_pod",
        termination_grace_period=process.GRACE_SECONDS,
        schedule_timeout_seconds=cluster.pending_minutes * 60,
        startup_timeout_seconds=900,
        log_pod_spec_on_failure=False,
        termination_message_policy="FallbackToLogsOnError",
        **task,
    )


def template(
    cluster: Cluster, *, step: pipeline.Step, resources: Resources, recipe: str, environment: dict[str, str]
) -> dict[str, Any]:
    """The pod as Kubernetes wants it: restricted, with limits, its secrets by reference."""
    place = cluster.placement(step.name)
    limits = {"cpu": f"{round(resources.cpu * 1000)}m", "memory": resources.memory}
    if resources.gpu:
        limits["nvidia.com/gpu"] = str(resources.gpu)
    confined = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    plain = {"REGRAFT_SCRATCH": "/scratch", "HOME": "/scratch", **place.environment, **environment}
    by_key = [("configMapKeyRef", place.config_maps), ("secretKeyRef", place.secrets)]
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    variables += [
        {"name": key, "valueFrom": {kind: {"name": name, "key": key}}}
        for kind, named in by_key
        for name, keys in named.items()
        for key in keys
    ]
    mounts = [
        {"name": "recipe", "mountPath": "/recipe"},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},  # noqa: S108 - a folder of the pod's own
        *({"name": claim, "mountPath": path} for claim, path in place.volumes.items()),
    ]
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if cluster.run_as_user:
        user = cluster.run_as_user
        security |= {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": place.mount_token,
        "securityContext": security,
        "nodeSelector": place.node_selector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in place.tolerations],
        "imagePullSecrets": [{"name": name} for name in cluster.pull_secrets],
        "initContainers": [
            {
                "name": "recipe",
                "image": cluster.image_of(step.name),
                "command": ["python", "-c", WRITE_RECIPE],
                "env": [{"name": "RECIPE", "value": recipe}],
                "securityContext": confined,
                "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
                "volumeMounts": mounts[:1],
            }
        ],
        "containers": [
            {
                "name": "base",
                "env": variables,
                "resources": {"limits": limits, "requests": limits},
                "securityContext": confined,
                "volumeMounts": mounts,
            }
        ],
        "volumes": [
            {"name": "recipe", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": place.scratch}},
            *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in place.volumes),
        ],
    }
    if resources.gpu > 1:  # their processes exchange gradients by shared memory, of which a pod has 64 MB
        spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": resources.memory}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if place.runtime_class:
        spec["runtimeClassName"] = place.runtime_class
    if place.service_account:
        spec["serviceAccountName"] = place.service_account
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": PIPELINE_LABELS}, "spec": spec}
