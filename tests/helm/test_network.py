"""The chart's network policies, walked as Kubernetes walks them: who reaches whom, and who does not."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from regraft.runners.cluster import PIPELINE_LABELS
from tests.helm.chart import CASES, HELM, pods, rendered

pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make helm")

WORLD = ["203.0.113.7", "2001:db8::7"]
METADATA = [
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.252"),  # also of containers, of GKE
    *("168.63.129.16", "100.100.100.200", "192.0.0.192"),  # Azure, Alibaba, Oracle
    *("fe80::a9fe:a9fe", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
]
MLFLOW, TRITON, METRICS, OPENAI = 5000, 8000, 8002, 8080


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    labels: dict[str, str]
    namespace: str = "ml"


STEP = Pod(PIPELINE_LABELS)  # what Airflow starts


class Network:
    """What the policies of one rendered chart allow."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
        self.pods = [Pod(pod["metadata"]["labels"]) for pod in pods(documents).values()]

    def of(self, component: str) -> Pod:
        """The one pod of a component."""
        (found,) = [pod for pod in self.pods if pod.labels["app.kubernetes.io/component"] == component]
        return found

    def reaches(self, source: Pod | str, target: Pod | str, port: int = 443) -> bool:
        """Whether a packet passes; pods of other namespaces and addresses have no policies of their own here."""
        return self._passes("Egress", source, target, port) and self._passes("Ingress", target, source, port)

    def _passes(self, direction: str, pod: Pod | str, other: Pod | str, port: int) -> bool:
        if isinstance(pod, str) or pod.namespace != "ml":
            return True
        governing = [
            policy
            for policy in self.policies
            if direction in policy["policyTypes"] and _selects(policy["podSelector"], pod.labels)
        ]
        rules = [rule for policy in governing for rule in policy.get(direction.lower(), [])]
        return not governing or any(_allows(rule, direction, other, port) for rule in rules)


def _allows(rule: dict[str, Any], direction: str, other: Pod | str, port: int) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from")
    if "ports" in rule and port not in [each["port"] for each in rule["ports"]]:
        return False
    return not peers or any(_is(peer, other) for peer in peers)


def _is(peer: dict[str, Any], other: Pod | str) -> bool:
    if isinstance(other, str):
        block, address = peer.get("ipBlock", {}), ip_address(other)
        return (
            bool(block)
            and address in ip_network(block["cidr"])
            and not any(address in ip_network(each) for each in block.get("except", []))
        )
    if "ipBlock" in peer:  # some network plug-ins do not count pods among addresses
        return False
    at_home = other.namespace == "ml"
    namespace = {"kubernetes.io/metadata.name": other.namespace}
    there = _selects(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else at_home
    return there and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_denied_what_is_not_allowed(case: str) -> None:
    network = Network(rendered(case))
    (deny,) = [
        policy
        for policy in network.policies
        if not policy.get("ingress")
        and "matchExpressions" not in policy["podSelector"]
        and policy["policyTypes"] == ["Ingress", "Egress"]
    ]
    assert network.pods
    for pod in [*network.pods, STEP]:
        assert _selects(deny["podSelector"], pod.labels), pod
        assert not network.reaches(Pod({}, "elsewhere"), pod, 22), pod
        assert network.reaches(pod, Pod({}, "kube-system"), 53), pod


@pytest.mark.parametrize("case", CASES)
def test_every_pod_reaches_what_it_needs_and_no_more(case: str) -> None:
    network = Network(rendered(case))
    mlflow, triton, doctor = network.of("mlflow"), network.of("triton"), network.of("doctor")
    database = Pod({"app": "postgresql"}, "databases")
    assert network.reaches(network.of("test"), triton, TRITON)
    assert not network.reaches(network.of("test"), mlflow, MLFLOW)
    for pod in (doctor, STEP):
        assert network.reaches(pod, mlflow, MLFLOW)
        assert network.reaches(pod, triton, TRITON)
    for pod in (doctor, STEP, mlflow):
        assert all(network.reaches(pod, address) for address in WORLD)
        assert network.reaches(pod, database, 5432)
        assert not any(network.reaches(pod, address, 80) for address in METADATA)
        assert not network.reaches(pod, "169.254.20.10", 443)  # of the node's own; its DNS is let through
    assert not any(network.reaches(triton, address) for address in WORLD)


def test_the_job_that_migrates_the_database_reaches_it_and_gets_no_requests_of_mlflow() -> None:
    documents = rendered("ha")
    network = Network(documents)
    upgrade = network.of("mlflow-upgrade")
    assert network.reaches(upgrade, WORLD[0], 5432)
    selectors = [document["spec"]["selector"] for document in documents if document["kind"] == "Service"]
    assert selectors
    assert not any(selector.items() <= upgrade.labels.items() for selector in selectors)


def test_who_is_outside_reaches_what_the_values_say() -> None:
    network = Network(rendered("ha", "--set=pipeline.airflow.namespace=airflow"))
    mlflow, triton = network.of("mlflow"), network.of("triton")
    shop, airflow, prometheus, ingress = (Pod({}, name) for name in ("shop", "airflow", "monitoring", "ingress-nginx"))
    assert network.reaches(shop, triton, TRITON)
    assert network.reaches(prometheus, triton, METRICS)
    assert network.reaches(airflow, mlflow, MLFLOW)
    assert network.reaches(ingress, mlflow, MLFLOW)
    for pod, target, port in [
        (shop, mlflow, MLFLOW),
        (prometheus, mlflow, MLFLOW),
        (airflow, triton, TRITON),
        (shop, triton, METRICS),
        (ingress, triton, TRITON),
    ]:
        assert not network.reaches(pod, target, port), (pod, port)


def test_openais_api_reaches_triton_alone_and_is_reached_by_clients_and_their_ingress() -> None:
    network = Network(rendered("ha"))
    openai = network.of("openai")
    assert network.reaches(openai, network.of("triton"), TRITON)
    assert not network.reaches(openai, network.of("mlflow"), MLFLOW)
    assert not any(network.reaches(openai, address) for address in WORLD)
    for namespace, may in {"shop": True, "ingress-nginx": True, "elsewhere": False}.items():
        assert network.reaches(Pod({}, namespace), openai, OPENAI) == may


def test_mlflow_is_open_to_all_only_for_an_ingress_controller_that_is_not_named() -> None:
    anybody: list[Pod | str] = [Pod({}, "elsewhere"), WORLD[0]]
    closed = Network(rendered("minimal"))
    opened = Network(rendered("ha", "--set=networkPolicy.ingressNamespace="))
    for pod in anybody:
        assert not closed.reaches(pod, closed.of("mlflow"), MLFLOW)
        assert opened.reaches(pod, opened.of("mlflow"), MLFLOW)


def test_pods_reach_the_metadata_address_where_their_rights_come_from_there() -> None:
    network = Network(rendered("minimal", "--set=networkPolicy.allowMetadata=true"))
    for pod in (network.of("doctor"), network.of("mlflow"), STEP):
        assert all(network.reaches(pod, address, 80) for address in [*METADATA, *WORLD])
    assert not any(network.reaches(network.of("triton"), address, 80) for address in METADATA)
