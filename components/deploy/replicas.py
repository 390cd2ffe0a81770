"""Which Triton replicas there are: those that REGRAFT_TRITON_URLS lists, or all pods behind a Service of Kubernetes.

    REGRAFT_TRITON_URLS=127.0.0.1:8000,127.0.0.1:8010
    REGRAFT_TRITON_URLS=kubernetes:///regraft-triton-replicas.ml:8000

The second form names SERVICE.NAMESPACE:PORT and asks the API server for the Service's endpoints, ready or not, but not
those that are on their way out: a pod on a node that was lost stays there until somebody removes it. DNS would give
the same addresses for a headless Service, but keeps its answers for seconds: a replica that has just started would be
missed, and serve the old version until somebody notices.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.deploy.replica import Unreachable
from regraft import settings
from regraft.errors import BadInput, Temporary

# Where Kubernetes puts a pod's token and the API server's certificate authority.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Seconds that a pod may take to start Triton with all its models: as the start-up probe of the chart.
START_SECONDS = 600.0


class Replicas(Protocol):
    """Finds the replicas."""

    @property
    def start_seconds(self) -> float:
        """How long one that is there may take to answer."""
        ...

    def find(self) -> tuple[str, ...]:
        """host:port of the HTTP endpoint of each replica there is now."""
        ...


@dataclass(frozen=True)
class Listed:
    """Replicas that never change their addresses."""

    addresses: tuple[str, ...]
    start_seconds: float = 0.0

    def find(self) -> tuple[str, ...]:
        return self.addresses


@dataclass(frozen=True)
class Pods:
    """The pods behind a Service."""

    service: str
    namespace: str
    port: int
    start_seconds: float = START_SECONDS

    def find(self) -> tuple[str, ...]:
        pods = addresses(self._slices(), self.port)
        if not pods:
            raise Temporary(
                f"no Triton pod runs behind Service {self.service}",
                where=f"namespace {self.namespace}",
                next=f"kubectl -n {self.namespace} get pods, then repeat the command",
            )
        return pods

    def _slices(self) -> list[dict[str, Any]]:
        """The Service's EndpointSlices; of a cluster before 1.21, its Endpoints as one."""
        services = f"?labelSelector=kubernetes.io/service-name={self.service}"
        try:
            of_service = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices{services}"
            return list(self._read(of_service)["items"])
        except Absent:
            pass
        try:
            return [as_slice(self._read(f"/api/v1/namespaces/{self.namespace}/endpoints/{self.service}"))]
        except Absent as error:
            raise BadInput(
                f"there is no Service {self.service} in namespace {self.namespace}",
                where="REGRAFT_TRITON_URLS",
                next=f"kubectl -n {self.namespace} get services",
            ) from error

    def _read(self, path: str) -> dict[str, Any]:
        import urllib3

        try:
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            token = (ACCOUNT / "token").read_text().strip()
        except (KeyError, OSError) as error:
            raise BadInput(
                "kubernetes:/// works in pods with a mounted service account token only",
                where="REGRAFT_TRITON_URLS",
                next="set automountServiceAccountToken for this pod, or list host:port of each replica",
            ) from error
        url = f"https://{f'[{host}]' if ':' in host else host}:{port}{path}"
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        with urllib3.PoolManager(ca_certs=str(ACCOUNT / "ca.crt"), headers=headers, timeout=10.0) as http:
            try:
                answer = http.request("GET", url, retries=urllib3.Retry(3, backoff_factor=0.5))
            except urllib3.exceptions.HTTPError as error:
                raise Temporary(
                    f"the Kubernetes API cannot be reached: {error}", where=url, next="repeat the command"
                ) from error
        if answer.status == 404:
            raise Absent(path)
        if answer.status in (401, 403):
            raise BadInput(
                f"this pod's service account may not read the endpoints of {self.service}",
                where=url,
                next="run deploy with the service account regraft-deploy of the chart in helm/regraft",
            )
        if answer.status != 200:
            raise Temporary(f"the Kubernetes API answered {answer.status}", where=url, next="repeat the command")
        document: dict[str, Any] = answer.json()
        return document


class Absent(Exception):
    """The Kubernetes API knows no such thing."""


def as_slice(endpoints: dict[str, Any]) -> dict[str, Any]:
    """An Endpoints object in the form of an EndpointSlice. It does not tell which pods are on their way out."""
    listed = []
    for subset in endpoints.get("subsets") or []:
        for address in [*(subset.get("addresses") or []), *(subset.get("notReadyAddresses") or [])]:
            listed.append({"addresses": [address["ip"]], "targetRef": address.get("targetRef")})
    return {"endpoints": listed}


def addresses(slices: list[dict[str, Any]], port: int) -> tuple[str, ...]:
    """host:port of each endpoint that is not on its way out, ready or not, in the order of the pods' names."""
    pods = set()
    for endpoint in (endpoint for some in slices for endpoint in some.get("endpoints") or []):
        if not (endpoint.get("conditions") or {}).get("terminating"):
            ip = endpoint["addresses"][0]
            name = (endpoint.get("targetRef") or {}).get("name", "")
            pods.add((name, f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"))
    return tuple(address for _, address in sorted(pods))


def named(urls: str) -> Replicas:
    """The replicas that the text of REGRAFT_TRITON_URLS names. Raises BadInput."""
    listed = settings.triton(urls)
    if match := re.fullmatch(r"kubernetes:///(.+)\.(.+):(\d+)", listed[0]):
        return Pods(match[1], match[2], int(match[3]))
    return Listed(listed)


def each(replicas: Replicas, act: Callable[[str], None]) -> None:
    """Acts on every replica, and looks again until there is no new one.

    One that still starts is waited for. One that has gone meanwhile is left out: what takes its place reads the model
    repository when it starts.

    Raises:
        Unreachable: one that should be there does not answer.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

    def comes_back(error: BaseException) -> bool:
        return isinstance(error, Unreachable) and address in replicas.find()

    done: set[str] = set()
    while new := [address for address in replicas.find() if address not in done]:
        for address in new:
            patience = stop_after_delay(replicas.start_seconds)
            tries = Retrying(retry=retry_if_exception(comes_back), stop=patience, wait=wait_fixed(2), reraise=True)
            try:
                tries(act, address)
            except Unreachable:
                if address in replicas.find():
                    raise
            done.add(address)
