"""Where pods run: images, volumes, nodes and secrets of one Kubernetes cluster, read from a YAML file.

A recipe says what a step needs (`resources`); this file says where the cluster has it. It is the same for all recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

import regraft
from regraft import yaml_marks
from regraft.errors import BadInput
from regraft.fields import Location, Zone
from regraft.parts import Part, StepName

# What the network policies of the chart know the pods of steps by.
PIPELINE_LABELS = {"app.kubernetes.io/part-of": "regraft", "app.kubernetes.io/component": "pipeline"}


class Toleration(Part):
    """As in a pod's `tolerations`."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Placement(Part):
    """What pods get beside the resources of their step."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    volumes: dict[str, Annotated[str, Field(pattern=r"^/")]] = Field(default_factory=dict)
    """Mount path by the name of the PersistentVolumeClaim."""
    runtime_class: str | None = None
    """The pod's `runtimeClassName`, where GPUs need one; Kubeflow cannot be told."""
    service_account: str | None = None
    mount_token: bool = False
    """Mount the service account's token: deploy needs it where it asks Kubernetes for Triton's replicas."""


class Cluster(Placement):
    """The settings of one cluster; what stands at the top counts for all steps."""

    image: str = "regraft-{step}:{version}"
    """Image of a step; {step} and {version} (regraft's own) are put in."""
    namespace: str | None = None
    """Namespace that Airflow starts pods in; its own, or that of its connection, when left out."""
    pull_secrets: tuple[str, ...] = ()
    store: Location | None = None
    """URL of the store, or a path on one of the volumes; asked for at each run when left out."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Plain environment variables: endpoints, never secrets."""
    config_maps: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By ConfigMap, the keys that become environment variables of the same name."""
    secrets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By Secret, the keys that become environment variables of the same name."""
    run_as_user: Annotated[int, Field(gt=0)] | None = None
    timezone: Zone = "UTC"
    """The one time zone of Kubeflow's schedules (CRON_SCHEDULE_TIMEZONE of its scheduledworkflow controller)."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a step whose pod died, or that found a server away, is started again."""
    pending_minutes: Annotated[int, Field(ge=1)] = 15
    """How long Airflow waits for a node that takes a pod, before it says why there is none; then `retries` count."""
    steps: dict[StepName, Placement] = Field(default_factory=dict)
    """What single steps get beside that."""

    def image_of(self, step: str) -> str:
        """The image of a step."""
        return self.image.replace("{step}", step).replace("{version}", regraft.__version__)

    def placement(self, step: StepName) -> Placement:
        """What the pods of a step get: what counts for all, then its own."""
        own = self.steps.get(step, Placement())
        return Placement(
            node_selector={**self.node_selector, **own.node_selector},
            tolerations=(*self.tolerations, *own.tolerations),
            volumes={**self.volumes, **own.volumes},
            runtime_class=own.runtime_class or self.runtime_class,
            service_account=own.service_account or self.service_account,
            mount_token=own.mount_token or self.mount_token,
        )


def load(path: str | Path | None) -> Cluster:
    """Reads a cluster's settings; the defaults when there is no file. Raises BadInput."""
    if path is None:
        return Cluster()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"cannot read the cluster's settings: {reason}", where=str(path)) from error
    root, data, problems = yaml_marks.read(text, where=str(path))
    try:
        cluster = Cluster.model_validate(data or {})
    except ValidationError as error:
        problems += yaml_marks.explain(root, error, Cluster)
    if problems:
        raise yaml_marks.refused(problems, where=f"the cluster's settings {path}", next=None)
    return cluster
