"""promote: through its command line with the trained tiny model, and in this process with challengers made by hand."""

from __future__ import annotations

import io
import signal
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from components.promote import follow, package
from regraft import recipe, summary, tasks, tracking
from regraft.errors import Exit
from regraft.gate import Verdict
from regraft.ledger import Entry, Ledger
from tests import challengers
from tests.contract.promoting import Promote, aliases, champion, followed, patched, roll_back, tags, versions
from tests.worlds import LATER, Tiny


@pytest.mark.slow
def test_the_first_model_is_registered_proven_and_handed_over_to_deploy(tiny: Tiny, client: Any) -> None:
    import mlflow

    tiny.through("promote")
    assert tiny.ledger.entries() == [], "it becomes champion by serving, not before"
    assert aliases(client) == {"challenger": 1}
    assert tags(client, 1)[tracking.IDENTITY_TAG] == tiny.result("finetune").identity
    assert tags(client, 1)["regraft.verdict"] == "promote"
    metrics = tiny.result("promote").metrics
    assert {**metrics, "reason": metrics["reason"][:8]} == {"version": 1, "champion": None, "reason": "Promote:"}

    task, declared = tasks.of("text-classification"), recipe.load(tiny.recipe)
    model = tiny.result("finetune")
    files = tiny.store.fetch(f"finetune/{model.identity}", model, tiny.folder / "files", only=("adapter", "tokenizer"))
    trained = task.load(declared, files, tiny.folder / "base")
    loaded = mlflow.transformers.load_model("models:/tiny@challenger", return_type="components")
    registered = type(trained)(loaded["model"].eval(), loaded["tokenizer"], trained.max_length)
    texts = ["a good film", "the plot was awful and very slow", "bright story not dull", "film"]
    expected = task.logits(trained, texts)
    assert np.array_equal(task.logits(registered, texts), expected), "the same model, to the last bit"
    scores = np.exp(expected - expected.max(axis=1, keepdims=True))
    answers = mlflow.pyfunc.load_model("models:/tiny@challenger").predict(texts)
    assert list(answers["label"]) == [declared.data.labels[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(answers["score"], (scores / scores.sum(axis=1, keepdims=True)).max(axis=1), atol=1e-6)

    tiny.through("promote")
    assert tiny.pointer("promote")["cached"] is True
    tiny.through("promote", REGRAFT_FORCE="1")
    assert versions(client) == [1], "however often it is repeated"
    assert tiny.ledger.entries() == []
    entry = tiny.served()
    tiny.through("promote")
    assert tiny.pointer("promote")["cached"] is True, "nor does it do anything again once the model is champion"
    tiny.through("promote", REGRAFT_FORCE="1")
    assert (tiny.ledger.entries(), aliases(client)) == ([entry], {"champion": 1})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies_in", "name"),
    [
        ("mlflow.MlflowClient", "create_model_version"),
        ("regraft.ledger.Ledger", "append"),
        ("components.promote.follow", "repair"),
    ],
    ids=["before-registering", "between-registering-and-ledger", "between-ledger-and-alias"],
)
def test_killed_anywhere_and_repeated_it_leaves_one_version_one_entry_and_the_alias(
    tiny: Tiny, client: Any, promote: Promote, dies_in: str, name: str
) -> None:
    module, _, owner = dies_in.rpartition(".")
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.make(tiny, "second", run=LATER, right=0.9, opponent=first)
    patch = f"from {module} import {owner}\n{owner}.{name} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    code, output = patched(tiny, patch, run=LATER)
    assert code == -signal.SIGKILL, output
    assert tiny.store.names("promote") == []
    assert len(tiny.ledger.entries()) == (2 if name == "repair" else 1)
    assert promote(LATER) == Exit.DONE
    assert versions(client) == [1, 2]
    assert [entry.version for entry in tiny.ledger.entries()] == [1, 2]
    assert aliases(client) == {"champion": 2}
    assert follow.differences(client, tiny.ledger, "tiny") == []


@pytest.mark.parametrize(
    "call",
    [
        "create_registered_model",
        "search_model_versions",
        "create_model_version",
        "set_registered_model_alias",
        "get_registered_model",
        "get_model_version",
        "delete_registered_model_alias",
        "update_registered_model",
    ],
)
def test_whatever_mlflow_call_fails_it_is_temporary_and_a_repeat_ends_it(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from mlflow.exceptions import MlflowException

    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.make(tiny, "a", run=LATER, right=0.9, opponent=first)

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("API request failed: connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(type(client), call, away)
        assert promote(LATER) == Exit.TEMPORARY
        if call in ("get_model_version", "delete_registered_model_alias", "update_registered_model"):
            assert len(tiny.ledger.entries()) == 2, "the ledger had it already"
    assert promote(LATER) == Exit.DONE
    assert versions(client) == [1, 2]
    assert len(tiny.ledger.entries()) == 2
    assert aliases(client) == {"champion": 2}


def test_a_row_that_another_client_wrote_first_is_temporary(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow calls what its database could not do BAD_REQUEST; that happens when twenty set the same alias."""
    from mlflow.exceptions import RestException

    challengers.make(tiny, "a", run=LATER, right=0.6)

    def raced(*_: Any, **__: Any) -> None:
        raise RestException({"error_code": "BAD_REQUEST", "message": "(sqlite3.IntegrityError) UNIQUE constraint"})

    monkeypatch.setattr(type(client), "set_registered_model_alias", raced)
    assert promote(LATER) == Exit.TEMPORARY
    assert tiny.ledger.entries() == []


def test_what_mlflow_finds_wrong_is_a_bug_not_temporary(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    challengers.make(tiny, "a", run=LATER, right=0.6)
    monkeypatch.setattr("components.promote.register.tags", lambda *_, **__: {"\n": "no such tag name"})
    assert promote(LATER) == Exit.BUG
    assert tiny.ledger.entries() == []


def test_without_mlflow_it_is_temporary_and_nothing_is_promoted(
    tiny: Tiny, promote: Promote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert promote() == Exit.TEMPORARY
    assert "the MLflow server does not answer" in capsys.readouterr().err
    assert tiny.ledger.entries() == []
    assert followed(tiny)[0] == Exit.TEMPORARY
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert promote() == Exit.BAD_INPUT


def test_a_lost_race_is_refused_and_registers_nothing(
    tiny: Tiny, client: Any, promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    challengers.make(tiny, "late", run=LATER, right=0.6)
    head = champion(tiny, client, "first", 0.9, "2026-11-29T03-00")
    assert promote(LATER) == Exit.REFUSED
    assert "Decided again" in capsys.readouterr().err
    assert tiny.ledger.head() == head
    assert versions(client) == [1]
    result = tiny.result("promote", LATER)
    assert (result.metrics, result.refused_by) == ({"version": None, "champion": head.model}, "gate")
    verdict = Verdict.model_validate(tiny.store.read_json(f"promote/{result.identity}/{result.attempt}/verdict.json"))
    assert verdict.verdict == "reject"
    assert verdict.champion is not None
    assert verdict.champion.model == head.model
    facts = summary.facts(recipe.load(tiny.recipe), tiny.store, LATER, {})
    assert Verdict.model_validate(facts["verdict"]) == verdict, "not evaluate's, which said promote"
    console = Console(file=io.StringIO(), width=1000)
    console.print(summary.render(facts))
    shown = console.file.getvalue()
    assert facts["outcome"]["state"] == "rejected"
    assert "Rejected: " in shown
    assert shown.count(verdict.sentence.removeprefix("Reject: ")) == 1
    assert "Decided again by promote" in shown


def test_a_registered_version_that_loses_says_so_and_is_no_challenger(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another champion comes between its registration and its ledger entry."""
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.make(tiny, "late", run=LATER, right=0.6, opponent=first)
    append = Ledger.append

    def overtaken(ledger: Ledger, after: Entry | None, **entry: Any) -> Entry:
        monkeypatch.setattr(Ledger, "append", append)
        champion(tiny, client, "better", 0.9, "2026-11-29T03-00")
        return append(ledger, after, **entry)

    monkeypatch.setattr(Ledger, "append", overtaken)
    assert promote(LATER) == Exit.REFUSED
    assert [entry.version for entry in tiny.ledger.entries()] == [1, 3]
    assert tags(client, 2)["regraft.verdict"] == "reject"
    assert client.get_model_version("tiny", "2").description.startswith("Reject: ")
    assert aliases(client) == {"champion": 3}


def test_a_first_challenger_that_was_overtaken_before_it_served_is_decided_again(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    challengers.make(tiny, "late", run=LATER, right=0.6)
    assert promote(LATER) == Exit.DONE
    assert promote(LATER) == Exit.DONE
    assert tiny.pointer("promote", LATER)["cached"] is True
    champion(tiny, client, "first", 0.9, "2026-11-29T03-00")
    assert promote(LATER) == Exit.REFUSED
    assert tags(client, 1)["regraft.verdict"] == "reject"
    assert aliases(client) == {"champion": 2}


def test_a_race_that_is_won_after_all_leaves_its_new_verdict_behind(tiny: Tiny, client: Any, promote: Promote) -> None:
    challengers.make(tiny, "late", run=LATER, right=0.9)
    head = champion(tiny, client, "first", 0.6, "2026-11-29T03-00")
    assert promote(LATER) == Exit.DONE
    entry = tiny.ledger.entries()[1]
    assert f"of version {head.version}" in entry.reason, "the sentence is of the new verdict"
    assert entry.reason.endswith("Decided again by promote, since the champion had changed after the evaluation.")
    result = tiny.result("promote", LATER)
    assert list(result.outputs) == ["verdict.json"]
    assert tags(client, 2)["regraft.verdict"] == "promote"
    assert f"of version {head.version}" in client.get_model_version("tiny", "2").description
    assert aliases(client) == {"champion": 2}


def test_a_refusal_is_as_good_as_the_champion_that_it_was_made_against(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.make(tiny, "late", run=LATER, right=0.7, opponent=first)
    champion(tiny, client, "bad in production", 0.9, "2026-11-29T03-00")
    assert promote(LATER) == Exit.REFUSED
    assert promote(LATER) == Exit.REFUSED
    assert tiny.pointer("promote", LATER)["cached"] is True, "nothing changed, so nothing is decided again"
    roll_back(tiny)
    assert promote(LATER) == Exit.DONE
    head = tiny.ledger.head()
    assert head is not None
    assert (head.sequence, head.version) == (4, 3)
    assert "Decided again" not in head.reason, "it is the champion that evaluate compared it with"
    assert tags(client, 3)["regraft.verdict"] == "promote"
    assert aliases(client) == {"champion": 3}


def test_a_rollback_stands_when_the_run_is_repeated(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    challengers.make(tiny, "second", run=LATER, right=0.9, opponent=first)
    assert promote(LATER) == Exit.DONE
    rolled = roll_back(tiny)
    assert promote(LATER) == Exit.DONE
    monkeypatch.setenv("REGRAFT_FORCE", "1")
    assert promote(LATER) == Exit.DONE
    assert tiny.ledger.head() == rolled
    assert len(tiny.ledger.entries()) == 3
    assert aliases(client) == {"champion": first.version}


def test_a_registry_that_counts_anew_never_gives_a_number_twice(
    tiny: Tiny, client: Any, promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton serves by the version's number, so two models under one number would be served for each other."""
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    client.delete_registered_model("tiny")
    challengers.make(tiny, "second", run=LATER, right=0.9, opponent=first)
    assert promote(LATER) == Exit.BAD_INPUT
    assert "MLflow gave version 1, which in the ledger is another model" in capsys.readouterr().err
    assert tiny.ledger.entries() == [first]


@pytest.mark.slow
@pytest.mark.parametrize(("column", "wrong"), [("score", 1e-4), ("label", "negative")])
def test_a_model_that_mlflow_loads_otherwise_is_never_registered(
    tiny: Tiny,
    client: Any,
    promote: Promote,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    column: str,
    wrong: Any,
) -> None:
    import mlflow

    load = mlflow.pyfunc.load_model

    class Otherwise:
        def __init__(self, uri: str) -> None:
            self.model = load(uri)

        def predict(self, texts: list[str]) -> Any:
            answers = self.model.predict(texts)
            answers[column] = wrong if column == "label" else answers[column] + wrong
            return answers

    monkeypatch.setattr(package, "_ready", lambda *_: None)
    monkeypatch.setattr(mlflow.pyfunc, "load_model", Otherwise)
    assert promote() == Exit.BUG
    assert "mlflow.pyfunc answers otherwise" in capsys.readouterr().err
    assert versions(client) == []
    assert tiny.ledger.entries() == []
