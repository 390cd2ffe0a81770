"""What MLflow's pages say: of a version, of the registered model, of the experiment; and how it is kept in step."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest

from components.promote import describe, follow
from regraft import pages, servers, tracking, verdicts
from regraft.errors import Exit
from tests import challengers
from tests.contract.promoting import Promote, champion, followed, patched, tags
from tests.worlds import LATER, RUN, Tiny


def said(client: Any, version: int) -> str:
    return str(client.get_model_version("tiny", str(version)).description)


def told(client: Any) -> str:
    return str(client.get_registered_model("tiny").description)


@pytest.mark.slow
def test_a_version_says_its_verdict_its_data_what_it_cost_and_where_more_is(tiny: Tiny, client: Any) -> None:
    tiny.through("promote")
    page = said(client, 1)
    assert page.startswith("Promote: f1_macro ")
    plain = page.replace("&nbsp;&nbsp;", "")
    for part in (
        r"\| f1_macro \| \d\.\d{3} \(\d",
        r"Data: all there is; rows: read 400, ",
        r"\| finetune \| \d",
    ):
        assert re.search(part, plain), page
    assert set(tags(client, 1)) == {tracking.IDENTITY_TAG, "regraft.verdict", "regraft.run"}
    links = dict(re.findall(r"\[([^]`]+)\]\((#[^)]+)\)", page))
    run = client.get_run(client.get_model_version("tiny", "1").run_id).info
    assert links["MLflow run"] == f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert run.run_name == RUN, "it is named by the run id"
    for link in ("report", "data page", "model card"):
        folder, _, name = links[link].partition("/artifacts/")[2].rpartition("/")
        assert f"{folder}/{name}" in [file.path for file in client.list_artifacts(run.run_id, folder)]
    note = client.get_run(run.run_id).data.tags["mlflow.note.content"]
    assert page.startswith(note), "the run says the same verdict"
    assert told(client) == verdicts.history("tiny", []), "nobody is champion yet"
    tiny.served()
    assert followed(tiny)[1]["differences"] == [
        "alias champion is not set, the ledger says version 1",
        "alias challenger is on version 1, which the ledger has decided on already",
    ]
    assert followed(tiny, "--repair")[0] == Exit.DONE
    assert "[version&nbsp;1](#/models/tiny/versions/1) since " in told(client)
    assert said(client, 1) == page


def test_the_experiment_opens_at_its_training_runs_with_the_columns_that_matter(tiny: Tiny, client: Any) -> None:
    tracking.prepare(client, "tiny", "accuracy")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(experiment.tags["mlflow.sharedViewState.regraft"])
    assert "metrics.`holdout.accuracy`" in view["selectedColumns"]
    assert tracking.unlike(client, "tiny", "accuracy") == {}
    assert list(tracking.unlike(client, "tiny", "f1_macro")) == [pages.VIEW_TAG]
    assert tracking.unlike(client, "tiny", "f1_macro", any_metric=True) == {}, "it is a later recipe's"
    tracking.prepare(client, "tiny", "f1_macro")


def test_a_run_is_found_by_one_rule_with_a_client_and_without(tiny: Tiny, client: Any) -> None:
    identity, server = tiny.result("finetune").identity, tiny.environment["MLFLOW_TRACKING_URI"]
    first = tracking.run_of(client, "tiny", identity, RUN)
    experiment = client.get_run(first).info.experiment_id
    twin = client.create_run(experiment, tags={tracking.IDENTITY_TAG: identity}).info.run_id
    try:
        assert tracking.run_of(client, "tiny", identity, RUN) == first
        run = servers.training_run(server, "tiny", identity)
        assert run == f"{server}/#/experiments/{experiment}/runs/{first}"
    finally:
        client.delete_run(twin)
    assert servers.training_run(server, "tiny", "unknown") == f"{server}/{pages.runs_page(experiment)}"
    assert servers.training_run(server, "no-such", identity) == f"{server}/#/experiments"


def test_doctor_names_and_mends_what_somebody_edited_and_keeps_peoples_own_words(tiny: Tiny, client: Any) -> None:
    champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    champion(tiny, client, "second", 0.9, "2026-11-29T03-00")
    tracking.prepare(client, "tiny", "f1_macro")
    before = [said(client, 1), said(client, 2), told(client)]
    assert followed(tiny)[1]["differences"] == []
    client.update_model_version("tiny", "1", "an old one")
    client.update_model_version("tiny", "2", "the best model")
    client.update_registered_model("tiny", "Ask Ada first.\n\n" + told(client).replace("entry 2", "entry 1"))
    experiment = client.get_experiment_by_name("tiny")
    client.set_experiment_tag(experiment.experiment_id, "mlflow.experimentKind", "genai_development_inferred")
    code, answer = followed(tiny)
    assert (code, answer["differences"]) == (
        Exit.REFUSED,
        [
            "description of version 1 is not the verdict on it",
            "description of version 2 is not the verdict on it",
            "description of tiny is not what the ledger says",
            "tag mlflow.experimentKind of the experiment tiny is not what regraft sets",
        ],
    )
    code, answer = followed(tiny, "--repair")
    assert (code, answer["left"]) == (Exit.DONE, [])
    assert [said(client, 1), said(client, 2)] == before[:2]
    assert told(client) == f"Ask Ada first.\n\n{before[2]}"


def test_a_history_that_only_lacks_the_newest_entry_is_no_edit_and_repair_brings_it_up(tiny: Tiny, client: Any) -> None:
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    tiny.ledger.again(first, first, kind="withdraw", reason="too slow")
    client.delete_registered_model_alias("tiny", "champion")
    assert follow.differences(client, tiny.ledger, "tiny") == []
    assert "too slow" not in told(client)
    follow.repair(client, tiny.ledger, "tiny")
    assert "too slow" in told(client)


@pytest.mark.slow
def test_killed_between_the_ledger_and_the_description_the_doctor_ends_it(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    champion(tiny, client, "first", 0.6, "2026-11-29T03-00")
    challengers.make(tiny, "late", run=LATER, right=0.9)  # judged without a champion, so promote decides again
    die = "lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    code, output = patched(tiny, f"import mlflow\nmlflow.MlflowClient.update_registered_model = {die}", run=LATER)
    assert code == -signal.SIGKILL, output
    code, answer = followed(tiny)
    assert code == Exit.REFUSED
    assert "description of version 2 is not the verdict on it" in answer["differences"], "promote's own was lost"
    assert followed(tiny, "--repair")[0] == Exit.DONE
    assert "entry 2 of the ledger" in told(client)


def test_a_verdict_that_promote_came_to_itself_is_the_one_that_doctor_writes(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    champion(tiny, client, "first", 0.6, "2026-11-29T03-00")
    challengers.make(tiny, "late", run=LATER, right=0.9)
    assert promote(LATER) == Exit.DONE
    page = said(client, 2)
    assert "champion, version 1" in page
    assert followed(tiny)[1]["differences"] == []
    client.update_model_version("tiny", "2", "")
    follow.repair(client, tiny.ledger, "tiny")
    assert said(client, 2) == page


def test_a_challenger_that_waits_is_kept_in_step_too(tiny: Tiny, client: Any, promote: Promote) -> None:
    tiny.declare("promotion: approval")
    challengers.make(tiny, "first", run=LATER, right=0.6)
    assert promote(LATER) == Exit.REFUSED
    page = said(client, 1)
    assert page.startswith("Promote: ")
    client.update_model_version("tiny", "1", "take it")
    assert followed(tiny)[1]["differences"] == ["description of version 1 is not the verdict on it"]
    assert followed(tiny, "--repair")[0] == Exit.DONE
    assert said(client, 1) == page


def test_a_store_that_lost_old_runs_leaves_descriptions_alone(tiny: Tiny, client: Any) -> None:
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    page = said(client, 1)
    for key in (f"runs/{first.run}", f"evaluate/{first.evaluation}"):
        tiny.store.remove(key)
    assert follow.differences(client, tiny.ledger, "tiny", every=True) == []
    assert said(client, 1) == page
    about = first.model_dump(include={"model", "run", "evaluation"})
    assert describe.version(tiny.store, **about, pages=None) is None
