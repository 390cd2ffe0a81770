"""Where deploy finds Triton's replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from components.deploy import replicas
from components.deploy.replica import Unreachable
from regraft.errors import BadInput

ENDPOINTS = {
    "subsets": [
        {
            "addresses": [{"ip": "10.0.0.7", "targetRef": {"kind": "Pod", "name": "triton-1"}}],
            "notReadyAddresses": [
                {"ip": "10.0.0.9", "targetRef": {"kind": "Pod", "name": "triton-0"}},
                {"ip": "fd00::3", "targetRef": {"kind": "Pod", "name": "triton-2"}},
            ],
        }
    ]
}


def test_every_pod_of_a_service_is_a_replica_ready_or_not() -> None:
    found = replicas.addresses([replicas.as_slice(ENDPOINTS)], 8000)
    assert found == ("10.0.0.9:8000", "10.0.0.7:8000", "[fd00::3]:8000")
    assert replicas.addresses([replicas.as_slice({})], 8000) == ()


def test_a_pod_on_its_way_out_is_none() -> None:
    gone = {"addresses": ["10.0.0.7"], "conditions": {"ready": False, "serving": True, "terminating": True}}
    starts = {"addresses": ["10.0.0.9"], "conditions": {"ready": False, "serving": False, "terminating": False}}
    assert replicas.addresses([{"endpoints": [gone]}, {"endpoints": [starts]}, {"endpoints": None}], 8000) == (
        "10.0.0.9:8000",
    )


def test_the_api_of_an_old_cluster_is_asked_where_there_are_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read(self: replicas.Pods, path: str) -> dict[str, Any]:
        asked.append(path)
        if "endpointslices" in path:
            raise replicas.Absent(path)
        return ENDPOINTS

    monkeypatch.setattr(replicas.Pods, "_read", read)
    assert len(replicas.named("kubernetes:///triton-replicas.ml:8000").find()) == 3
    assert asked == [
        "/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices?labelSelector=kubernetes.io/service-name=triton-replicas",
        "/api/v1/namespaces/ml/endpoints/triton-replicas",
    ]


def test_a_list_and_a_service_are_told_apart() -> None:
    assert replicas.named("127.0.0.1:1, 127.0.0.1:2").find() == ("127.0.0.1:1", "127.0.0.1:2")
    assert replicas.named("kubernetes:///triton-replicas.ml:8000") == replicas.Pods("triton-replicas", "ml", 8000)


@pytest.mark.parametrize(
    "wrong", ["kubernetes://triton:8000", "kubernetes:///triton.ml", "1.2.3.4:1,kubernetes:///a.b:1"]
)
def test_what_names_no_service_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(BadInput, match="not the address of a Service") as refused:
        replicas.named(wrong)
    assert "kubernetes:///regraft-triton-replicas.NAMESPACE:8000" in str(refused.value)


def test_a_service_outside_a_pod_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(BadInput, match="mounted service account token"):
        replicas.named("kubernetes:///triton-replicas.ml:8000").find()


@dataclass
class Changing:
    """Replicas whose list is another one at each look."""

    lists: list[tuple[str, ...]]
    start_seconds: float = 0.0
    looks: int = field(default=0)

    def find(self) -> tuple[str, ...]:
        self.looks += 1
        return self.lists[min(self.looks, len(self.lists)) - 1]


def test_a_replica_that_appears_meanwhile_is_acted_on_too() -> None:
    acted: list[str] = []
    replicas.each(Changing([("a",), ("a", "b"), ("b", "c")]), acted.append)
    assert acted == ["a", "b", "c"]


def test_a_replica_that_went_away_is_left_out_and_one_that_is_still_there_is_an_error() -> None:
    def act(address: str) -> None:
        raise Unreachable("nobody answers")

    replicas.each(Changing([("a",), ()]), act)
    with pytest.raises(Unreachable):
        replicas.each(Changing([("a",)]), act)


def test_a_replica_that_still_starts_is_waited_for() -> None:
    tries: list[str] = []

    def act(address: str) -> None:
        tries.append(address)
        if len(tries) < 2:
            raise Unreachable("nobody answers")

    replicas.each(Changing([("a",)], start_seconds=60.0), act)
    assert tries == ["a", "a"]
