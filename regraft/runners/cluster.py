"""Where pods run: images, volumes, nodes and secrets of one Kubernetes cluster, read from a YAML file.

A recipe says what a step needs (`resources`); this file says where the cluster has it. It is the same for all recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

import regraft
from regraft import pipeline, yaml_marks
from regraft.errors import BadInput
from regraft.fields import Location, Memory, Zone
from regraft.parts import Part, StepName

SCRATCH = "50Gi"

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

    environment: dict[str, str] = Field(default_factory=dict)
    """Plain environment variables: endpoints, never secrets."""
    config_maps: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By ConfigMap, the keys that become environment variables of the same name."""
    secrets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By Secret, the keys that become environment variables of the same name."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    volumes: dict[str, Annotated[str, Field(pattern=r"^/")]] = Field(default_factory=dict)
    """Mount path by the name of the PersistentVolumeClaim."""
    runtime_class: str | None = None
    """The pod's `runtimeClassName`, where GPUs need one; Kubeflow cannot be told."""
    scratch: Memory | None = None
    """Most that a pod may write to its folder for temporary files, such as 50Gi, which it is when left out."""
    service_account: str | None = None
    mount_token: bool = False
    """Mount the service account's token: deploy needs it where it asks Kubernetes for Triton's replicas."""

    @property
    def variables(self) -> frozenset[str]:
        """The names of its environment variables."""
        by_key = (*self.config_maps.values(), *self.secrets.values())
        return frozenset(self.environment).union(*by_key)


class Cluster(Placement):
    """The settings of one cluster; what stands at the top counts for all steps."""

    image: str = "regraft-{step}:{version}"
    """Image of a step; {step} and {version} (regraft's own) are put in."""
    digests: dict[StepName, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """By step, the digest that its image has, whatever its tag says by now."""
    namespace: str | None = None
    """Namespace that Airflow starts pods in; its own, or that of its connection, when left out."""
    pull_secrets: tuple[str, ...] = ()
    store: Location | None = None
    """URL of the store, or a path on one of the volumes; asked for at each run when left out."""
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
        named = self.image.replace("{step}", step).replace("{version}", regraft.__version__)
        return "@".join((named, *(digest for pinned, digest in self.digests.items() if pinned == step)))

    def placement(self, step: StepName | None) -> Placement:
        """What the pods of a step get: what counts for all, then its own. None: those of no step.

        Of the variables of all a step does not get what `pipeline.withheld` names; its own are its own.
        """
        own = self.steps.get(step, Placement()) if step else Placement()
        left_out = pipeline.withheld(pipeline.step(step) if step else None) | own.variables
        return Placement(
            environment={**{k: v for k, v in self.environment.items() if k not in left_out}, **own.environment},
            config_maps=_keys(self.config_maps, left_out, own.config_maps),
            secrets=_keys(self.secrets, left_out, own.secrets),
            node_selector={**self.node_selector, **own.node_selector},
            tolerations=(*self.tolerations, *own.tolerations),
            volumes={**self.volumes, **own.volumes},
            runtime_class=own.runtime_class or self.runtime_class,
            scratch=own.scratch or self.scratch or SCRATCH,
            service_account=own.service_account or self.service_account,
            mount_token=own.mount_token or self.mount_token,
        )


def _keys(
    shared: dict[str, tuple[str, ...]], left_out: frozenset[str], own: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Keys by ConfigMap or Secret: those of all steps but what is left out, then a step's own. None is without keys."""
    kept = {name: tuple(key for key in keys if key not in left_out) for name, keys in shared.items()}
    return {name: keys for name in {**kept, **own} if (keys := (*kept.get(name, ()), *own.get(name, ())))}


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
