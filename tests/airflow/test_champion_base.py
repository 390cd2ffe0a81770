"""The DAGs of models whose base model is another recipe's champion."""

from __future__ import annotations

import json

from tests.airflow.conftest import load
from tests.airflow.laptop import Laptop

CHAT = """\
name: reviews
task: chat
data: {source: data.jsonl, columns: {messages: messages}}
base_model: {source: base}
"""


def test_the_dag_of_a_model_on_anothers_champion_stands_behind_that_ones(laptop: Laptop) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    laptop.recipe("below", text=CHAT)
    on = CHAT.replace("source: base", "source: champion://below")
    laptop.recipe("above", text=on)
    laptop.recipe("at-once", "schedule: {asset: champion://below}\n", text=on)
    made = {name: dag for name, dag in load("retrain.py").items() if type(dag).__name__ == "DAG"}
    edges = {
        name: ([inlet.name for inlet in dag.tasks[0].inlets], [outlet.name for outlet in dag.tasks[-1].outlets])
        for name, dag in made.items()
    }
    assert edges == {
        "below": ([], ["champion://below"]),
        "above": (["champion://below"], ["champion://above"]),
        "at-once": (["champion://below"], ["champion://at-once"]),
    }
    assert made["below"].tasks[-1].task_id == "deploy"
    stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(made["at-once"]))))
    asset = made["below"].tasks[-1].outlets[0]
    assert [(each.name, each.uri) for _, each in stored.timetable.asset_condition.iter_assets()] == [
        (asset.name, asset.uri)
    ], "a new champion below starts it"
