"""What holds for every recipe that is accepted, and for whatever else is written into one."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft import base_model, pipeline, recipe
from regraft.errors import BadInput
from tests.recipes import documents, texts, written

slow = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def doubles(value: Any) -> Any:
    """A document as it comes out of Kubeflow's parameters, which know no whole numbers."""
    if isinstance(value, dict):
        return {key: doubles(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [doubles(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@slow
@given(texts)
def test_an_accepted_recipe_is_the_same_on_its_way_through_every_runner(text: str) -> None:
    declared = recipe.parse(text)
    assert recipe.parse(written(doubles(json.loads(json.dumps(yaml.safe_load(text), allow_nan=False))))) == declared
    assert recipe.parse(text.encode().decode()) == declared
    for step in pipeline.STEPS:
        json.dumps(pipeline.recipe_part(declared, step), allow_nan=False).encode()
        assert int(pipeline.threads(declared, step)["OMP_NUM_THREADS"]) >= 1
        assert round(pipeline.resources(declared, step).cpu * 1000) >= 1
    now = datetime.now(UTC)
    assert pipeline.run_time(pipeline.run_id(declared, now)) <= now


@slow
@given(texts)
def test_where_the_base_model_of_an_accepted_recipe_is_is_found_or_refused_without_asking_others(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch, suppress(BadInput):
        patch.setattr("socket.socket.connect", None)
        base_model.at_hand(recipe.parse(text))


odd_texts = ["", " ", "\0", "\x1b[0m", "\ud800", "${", "://", "4Gi", ".inf", "2026-13-45", "999999999w", "x" * 2000]
odd_texts += ["0 0 30 2 *", "@daily", "airflow://x"]
odd_values = [
    None,
    True,
    -1,
    0,
    2**33,
    10**400,
    1e-9,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    {"x": 1},
    {1: 2},
    [None],
]
broken: st.SearchStrategy[Any] = st.sampled_from([*odd_texts, *odd_values, ["a", "a"], datetime(2026, 1, 1), b"x"])


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys and positions."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    return [place for key, value in items for place in ((*path, key), *places(value, (*path, key)))]


@slow
@given(documents, st.data())
def test_whatever_stands_anywhere_in_a_recipe_it_holds_or_is_an_error_with_its_line(
    document: dict[str, Any], data: st.DataObject
) -> None:
    *parents, last = data.draw(st.sampled_from(places(document)))
    node: Any = document
    for key in parents:
        node = node[key]
    node[last] = data.draw(broken)
    text = yaml.dump(document, sort_keys=False)
    said = None
    try:
        declared = recipe.parse(text)
    except BadInput as error:
        said = str(error)
    if said is not None:
        assert "line " in said
        said.encode()
    else:
        assert recipe.parse(written(doubles(json.loads(json.dumps(yaml.safe_load(text), allow_nan=False))))) == declared
