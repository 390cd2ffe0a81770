"""evaluate through its command line, on tiny models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from regraft.gate import Verdict
from tests.worlds import LATER, RUN, Tiny
from tests.worlds.text_classification import rows


def verdict_of(tiny: Tiny, run: str = RUN) -> Verdict:
    manifest = tiny.result("evaluate", run)
    return Verdict.model_validate_json(tiny.store.read(f"evaluate/{manifest.identity}/{manifest.attempt}/verdict.json"))


def make_champion(tiny: Tiny, run: str = RUN) -> None:
    tiny.ledger.append(
        tiny.ledger.head(),
        kind="promote",
        version=1,
        model=tiny.result("finetune", run).identity,
        run=run,
        evaluation=tiny.result("evaluate", run).identity,
        reason="test",
    )


def test_the_first_model_is_judged_by_the_floors_alone(tiny: Tiny) -> None:
    verdict = verdict_of(tiny)
    assert verdict.verdict == "promote"
    assert verdict.champion is None
    assert {gate.name for gate in verdict.gates} == {"rows", "floor accuracy"}


def test_both_models_are_scored_on_the_same_rows_in_the_same_run(tiny: Tiny) -> None:
    make_champion(tiny)
    tiny.put(rows(500, seed=5))
    tiny.through("validate", "finetune", run=LATER)
    tiny.step("evaluate", run=LATER)
    manifest = tiny.result("evaluate", LATER)
    table = pq.read_table(tiny.store.path(f"evaluate/{manifest.identity}/{manifest.attempt}/predictions.parquet"))
    assert {"digest", "label", "challenger.p0", "champion.p0"} <= set(table.column_names)
    verdict = verdict_of(tiny, LATER)
    assert verdict.champion is not None
    assert verdict.champion.version == 1
    assert verdict.rows.clean == table.num_rows


def test_a_worse_challenger_is_refused_with_the_reason(tiny: Tiny) -> None:
    make_champion(tiny)
    tiny.put([{**row, "label": {"positive": "negative", "negative": "positive"}[row["label"]]} for row in rows(400)])
    tiny.declare(more="description: labels turned round")
    tiny.through("validate", run=LATER)
    tiny.put(rows(400))
    flipped = tiny.pointer("validate", LATER)
    tiny.through("finetune", run=LATER)
    tiny.store.replace(f"runs/{LATER}/validate.json", tiny.store.read(f"runs/{RUN}/validate.json"))
    assert flipped["identity"] != tiny.pointer("validate", LATER)["identity"]
    code, output = tiny.step("evaluate", run=LATER)
    assert code == 10, output
    assert "evaluate: refused: Reject: f1_macro" in output
    assert tiny.pointer("evaluate", LATER)["refused_by"] == "gate"
    assert "The champion stays" in output
    assert tiny.step("promote", run=LATER)[0] == 10, "and promote does nothing"
    assert len(tiny.ledger.entries()) == 1


def test_inputs_that_the_champion_was_trained_on_do_not_count_whatever_their_label_is_now(tiny: Tiny) -> None:
    """The champion of another split: what is holdout now was training data then; and some rows are relabelled."""
    make_champion(tiny)
    trained_on = tiny.result("finetune")
    digests = pq.read_table(
        tiny.store.path(f"finetune/{trained_on.identity}/{trained_on.attempt}/train_digests.parquet")
    )["input"].to_pylist()
    tiny.recipe.write_text(tiny.recipe.read_text().replace("holdout: 0.3", "holdout: 0.6"))
    tiny.put(rows(400, wrong=0.2))
    tiny.through("validate", "finetune", run=LATER)
    tiny.step("evaluate", run=LATER)
    data = tiny.result("validate", LATER)
    holdout = pq.read_table(tiny.store.path(f"validate/{data.identity}/{data.attempt}/holdout.parquet"))
    seen = len(set(holdout["digest"].to_pylist()) & set(digests))
    assert seen > 50
    verdict = verdict_of(tiny, LATER)
    assert verdict.rows.contaminated == seen
    assert verdict.rows.clean == holdout.num_rows - seen


def test_the_champions_own_run_repeats_its_verdict_instead_of_comparing_the_model_with_itself(tiny: Tiny) -> None:
    make_champion(tiny)
    tiny.through("evaluate")
    assert tiny.pointer("evaluate")["cached"] is True
    assert verdict_of(tiny).champion is None


def test_a_champion_with_other_labels_cannot_be_compared(tiny: Tiny) -> None:
    make_champion(tiny)
    tiny.recipe.write_text(tiny.recipe.read_text().replace("[negative, positive]", "[positive, negative]"))
    tiny.through("validate", "finetune", run=LATER)
    code, output = tiny.step("evaluate", run=LATER)
    assert code == 20
    assert "the two cannot be compared" in output


def test_what_was_forgotten_of_the_anchor_set_is_judged(tiny: Tiny, tmp_path: Path) -> None:
    make_champion(tiny)
    anchor = tmp_path / "anchor.jsonl"
    anchor.write_text("".join(json.dumps(row) + "\n" for row in rows(150, seed=77)))
    gates = f"gates: {{min_rows: 20, forgetting: {{anchor: {anchor}, max_drop: 0.5}}}}"
    tiny.recipe.write_text(re.sub(r"gates: .*", gates, tiny.recipe.read_text()))
    tiny.put(rows(500, seed=5))
    tiny.through("validate", "finetune", run=LATER)
    tiny.step("evaluate", run=LATER)
    assert "forgetting" in {gate.name for gate in verdict_of(tiny, LATER).gates}
    assert "anchor" in tiny.result("evaluate", LATER).inputs


def test_the_report_opens_offline_and_escapes_what_users_wrote(tiny: Tiny) -> None:
    tiny.put([{**row, "text": f"{row['text']} <script>alert(1)</script>"} for row in rows(400)])
    tiny.through("validate", "finetune", "evaluate", run=LATER)
    manifest = tiny.result("evaluate", LATER)
    html = tiny.store.read(f"evaluate/{manifest.identity}/{manifest.attempt}/report.html").decode()
    assert html.count("<script") == 1, "our own, which is in the page"
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", html.replace('xlink:href="#', ""))
    assert "<svg" in html
    assert verdict_of(tiny, LATER).sentence.split(":")[0] in html


def test_plots_and_scores_are_on_the_mlflow_run_of_the_training(tiny: Tiny) -> None:
    import mlflow

    client = mlflow.MlflowClient(tiny.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tiny")
    identity = tiny.result("finetune").identity
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`regraft.identity` = '{identity}'")
    assert run.data.metrics["holdout.f1_macro"] > 0
    assert run.data.tags["regraft.verdict"] == "promote"
    files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation/plots")}
    assert "evaluation/plots/confusion-matrix.svg" in files


def test_without_mlflow_it_is_temporary_and_costs_nothing(tiny: Tiny) -> None:
    tiny.recipe.write_text(tiny.recipe.read_text().replace("min_rows: 20", "min_rows: 21"))
    code, output = tiny.step("evaluate", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 75
    assert "scoring" not in output
