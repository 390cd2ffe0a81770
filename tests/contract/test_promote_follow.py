"""How MLflow's aliases and tags are made to follow the ledger."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from components.deploy import alias
from components.promote import follow
from regraft import tracking
from regraft.errors import Exit, RegraftError, Temporary
from regraft.ledger import Ledger
from tests import challengers
from tests.contract.promoting import Promote, aliases, champion, followed, tags
from tests.worlds import LATER, Tiny


def test_follow_names_and_mends_what_somebody_changed_in_mlflow(tiny: Tiny, client: Any) -> None:
    first = champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    champion(tiny, client, "second", 0.9, "2026-11-29T03-00")
    assert followed(tiny) == (0, {**followed(tiny)[1], "differences": [], "left": []})
    client.set_registered_model_alias("tiny", "champion", "1")
    client.set_registered_model_alias("tiny", "challenger", "1")
    client.set_model_version_tag("tiny", "2", "regraft.verdict", "hold")
    client.delete_model_version_tag("tiny", "2", tracking.IDENTITY_TAG)
    code, said = followed(tiny)
    assert code == Exit.REFUSED
    assert [sentence.split(" is ")[0] for sentence in said["differences"]] == [
        "alias champion",
        "alias challenger",
        f"tag {tracking.IDENTITY_TAG} of version 2",
        "tag regraft.verdict of version 2",
    ]
    assert aliases(client) == {"champion": 1, "challenger": 1}, "without --repair nothing is changed"
    code, said = followed(tiny, "--repair")
    assert (code, len(said["differences"]), said["left"]) == (0, 4, [])
    assert aliases(client) == {"champion": 2}
    assert tags(client, 2)["regraft.verdict"] == "promote"
    assert first.version == 1


def test_a_champion_that_was_withdrawn_loses_its_alias_and_the_next_challenger_meets_floors_alone(
    tiny: Tiny, client: Any, promote: Promote
) -> None:
    first = champion(tiny, client, "first", 0.9, "2026-11-28T03-00")
    challengers.make(tiny, "second", run=LATER, right=0.6)
    about = first.model_dump(include={"version", "model", "run", "evaluation"})
    tiny.ledger.append(first, kind="withdraw", reason="too slow", **about)
    assert followed(tiny)[1]["differences"] == ["alias champion is on version 1, the ledger says there is no champion"]
    assert followed(tiny, "--repair")[0] == Exit.DONE
    assert aliases(client) == {}
    assert promote(LATER) == Exit.DONE
    tiny.served(LATER)
    assert followed(tiny, "--repair")[0] == Exit.DONE
    assert [(entry.kind, entry.version) for entry in tiny.ledger.entries()] == [
        ("promote", 1),
        ("withdraw", 1),
        ("promote", 2),
    ]
    assert "Decided again" not in tiny.ledger.entries()[2].reason, "it was worse than what never served"
    assert aliases(client) == {"champion": 2}


def test_deploy_makes_the_aliases_follow_what_it_wrote_into_the_ledger(
    tiny: Tiny, client: Any, promote: Promote, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    challengers.make(tiny, "first", run=LATER, right=0.6)
    assert promote(LATER) == Exit.DONE
    entry = tiny.served(LATER)
    assert aliases(client) == {"challenger": 1}
    alias.update("tiny", tiny.ledger)
    assert aliases(client) == {"champion": 1}
    assert follow.differences(client, tiny.ledger, "tiny") == [], "the tags are those that promote gave it"
    assert "entry 1 of the ledger" in client.get_registered_model("tiny").description
    tiny.ledger.again(entry, entry, kind="withdraw", reason="test")
    alias.update("tiny", tiny.ledger)
    assert aliases(client) == {}
    assert "There is none any more: entry 2" in client.get_registered_model("tiny").description
    assert capsys.readouterr().err.count("alias champion was not set") == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    alias.update("tiny", tiny.ledger)
    assert "MLflow's alias champion was not set" in capsys.readouterr().err, "a server that is away stops no rollout"


def test_follow_never_says_of_another_model_that_it_is_the_champion(tiny: Tiny, client: Any) -> None:
    champion(tiny, client, "first", 0.5, "2026-11-28T03-00")
    client.delete_registered_model("tiny")
    assert followed(tiny)[1]["differences"] == ["MLflow has no registered model tiny"]
    other = challengers.make(tiny, "other", run=LATER, right=0.5)
    run_id = tracking.run_of(client, "tiny", other.identity, LATER)
    client.create_registered_model("tiny")
    client.create_model_version("tiny", source=f"runs:/{run_id}/model", run_id=run_id)
    with pytest.raises(RegraftError, match="version 1 in MLflow is another model"):
        follow.repair(client, tiny.ledger, "tiny")
    client.delete_model_version("tiny", "1")
    with pytest.raises(RegraftError, match="MLflow has no version 1"):
        follow.repair(client, tiny.ledger, "tiny")
    assert aliases(client) == {}


def test_follow_gives_up_loudly_when_the_ledger_never_stands_still(
    tiny: Tiny, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = itertools.cycle([champion(tiny, client, "first", 0.5, "2026-11-28T03-00"), None])
    monkeypatch.setattr(follow, "ROUNDS", 3)
    monkeypatch.setattr(Ledger, "head", lambda _: next(heads))
    with pytest.raises(Temporary, match="MLflow does not follow the ledger, asked 3 times"):
        follow.repair(client, tiny.ledger, "tiny")
