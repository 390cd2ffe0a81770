"""Whatever a client sends, a served model answers it rightly or says what is wrong with it, and serves on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferResult

from components.deploy import replica, serve
from tests import champions
from tests.triton_requests import (
    MALFORMED,
    MOST,
    ONE,
    READ_OTHERWISE,
    Request,
    document,
    in_bytes,
    in_json,
    packed,
    well_formed,
)

pytestmark = pytest.mark.slow

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LABELS = ["negative", "positive"]
TRITONS_OWN = re.compile(
    "Unable to (parse|set) '|Unable to parse JSON bytes array|failed to parse the request JSON buffer: |"
    "failed to get request params|attempt to get members for non-object"
)
"""To JSON that it cannot read Triton answers 500, before any model is asked; none of its options changes that."""


@dataclass(frozen=True)
class Served:
    """A model that is served, and what it says to one text by itself."""

    pool: urllib3.HTTPConnectionPool
    caller: replica.Ask
    tolerance: float
    known: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def ask(self, request: Request) -> urllib3.BaseHTTPResponse:
        return self.pool.request(request.method, request.path, body=request.body, headers=request.headers)

    def alone(self, text: str) -> npt.NDArray[np.float32]:
        """Probabilities of a text that is alone in its request."""
        if text not in self.known:
            self.known[text] = self.caller(pa.table({"text": [text]}))[0].probabilities[0]
        return self.known[text]

    def lives(self) -> None:
        """Fails unless the server is ready and answers a good request as it did at first."""
        assert self.pool.request("GET", "/v2/health/ready").status == 200
        again = self.caller(pa.table({"text": ONE}))[0].probabilities[0]
        np.testing.assert_allclose(again, self.alone(ONE[0]), rtol=0, atol=self.tolerance)

    def check(self, answer: urllib3.BaseHTTPResponse, texts: Sequence[str]) -> None:
        """Fails unless an answer says of each text what is said of it alone."""
        assert answer.status == 200, answer.data[:400]
        labels, probabilities = read(answer)
        expected = np.stack([self.alone(text) for text in texts])
        if probabilities is not None:
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-5)
            np.testing.assert_allclose(probabilities, expected, rtol=0, atol=self.tolerance)
        if labels is not None:
            chosen = expected[range(len(texts)), [LABELS.index(label) for label in labels]]
            np.testing.assert_array_less(expected.max(axis=1) - 2 * self.tolerance, chosen)


def refused(answer: urllib3.BaseHTTPResponse, what: str) -> None:
    """Fails unless an answer is a refusal whose sentence `what` matches."""
    said = json.loads(answer.data)["error"]
    assert 400 <= answer.status < 500 or (answer.status == 500 and TRITONS_OWN.match(said)), (answer.status, said)
    assert re.search(what, said), said
    assert "Traceback" not in said
    assert "model.py" not in said


def read(answer: urllib3.BaseHTTPResponse) -> tuple[list[str] | None, npt.NDArray[np.float32] | None]:
    """Labels, and probabilities of shape (texts, labels): what of it was asked for."""
    size = answer.headers.get("Inference-Header-Content-Length")
    whole = json.loads(answer.data[: int(size)] if size else answer.data)
    if "outputs" not in whole:  # as /generate answers
        labels = [whole["label"]] if isinstance(whole["label"], str) else whole["label"]
        return labels, np.array(whole["probabilities"], np.float32).reshape(len(labels), -1)
    result = InferResult.from_response_body(answer.data, header_length=int(size) if size else None)
    labels, probabilities = result.as_numpy("label"), result.as_numpy("probabilities")
    if labels is not None:
        labels = [label if isinstance(label, str) else label.decode() for label in labels.reshape(-1)]
    return labels, probabilities


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny model, computed as this machine does it by default. Requests that come together share a batch."""
    folder = tmp_path_factory.mktemp("served")
    file = champions.recipe_file(folder, champions.base(folder / "base"), serving="{queue_delay_ms: 1}")
    file.write_text(file.read_text().replace("max_length: 16", "max_length: 64"))
    recipe = champions.load_recipe(file)
    precision = "bf16" if champions.BF16 else "fp32"
    champions.repository(folder, recipe, precision)
    with (
        serve.running(repository=folder / "models", log=folder / "triton.log") as server,
        replica.calling(server.address, recipe, 1) as caller,
        urllib3.HTTPConnectionPool("127.0.0.1", server.ports.http, maxsize=8, block=True, retries=False) as pool,
    ):
        yield Served(pool, caller, 1e-4 if precision == "fp32" else 2e-3)


@settings(FEW, max_examples=150)
@given(well_formed())
@example((ONE * MOST, in_json(document(ONE * MOST))))
@example((["😀" * 100_000, ""], in_bytes(packed(["😀" * 100_000, ""]), 2)))
def test_each_text_gets_the_answer_that_it_gets_alone(served: Served, asked: tuple[list[str], Request]) -> None:
    texts, request = asked
    served.check(served.ask(request), texts)
    served.lives()


@pytest.mark.parametrize("wrong", MALFORMED)
@FEW
@given(st.data())
def test_a_malformed_request_is_refused_with_what_is_wrong_and_harms_nobody(
    served: Served, wrong: str, data: st.DataObject
) -> None:
    requests, what = MALFORMED[wrong]
    refused(served.ask(data.draw(requests)), what)
    served.lives()


@settings(FEW, max_examples=60)
@given(st.lists(well_formed() | MALFORMED["a text that is not UTF-8"][0], min_size=2, max_size=6))
def test_requests_that_share_a_batch_are_answered_and_refused_one_by_one(
    served: Served, together: list[tuple[list[str], Request] | Request]
) -> None:
    requests = [one if isinstance(one, Request) else one[1] for one in together]
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(served.ask, requests))
    for one, answer in zip(together, answers, strict=True):
        if isinstance(one, Request):
            refused(answer, "not valid UTF-8")
        else:
            served.check(answer, one[0])
    served.lives()


@pytest.mark.parametrize("what", READ_OTHERWISE)
def test_what_triton_reads_otherwise_than_it_is_written_is_known(served: Served, what: str) -> None:
    request, texts = READ_OTHERWISE[what]
    served.check(served.ask(request), texts)
    served.lives()
