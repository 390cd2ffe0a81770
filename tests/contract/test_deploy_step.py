"""deploy as a process: exit codes, the cached run, and SIGKILL."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import replica, serve
from regraft import snapshot
from regraft.errors import Exit
from regraft.ledger import Ledger
from regraft.pipeline import run_time
from regraft.store import Store
from tests import champions

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a recipe, a store in which promote has handed version 1 over to deploy, and a replica."""
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, champions.base(tmp_path / "base")))
    store = Store(str(tmp_path / "store"), recipe.name)
    champions.hand_over(store, recipe, tmp_path, 1)
    pointer = {"recipe_sha256": snapshot.keep(store, (tmp_path / "recipe.yaml").read_bytes())}
    store.replace(f"runs/{champions.RUN}/finetune.json", json.dumps(pointer).encode())
    (tmp_path / "models").mkdir()
    (tmp_path / "scratch").mkdir()
    with serve.running(repository=tmp_path / "models", log=tmp_path / "triton.log") as server:
        monkeypatch.setenv("METRICS", f"http://127.0.0.1:{server.ports.metrics}/metrics")
        monkeypatch.setenv("REGRAFT_MODEL_REPOSITORY", str(tmp_path / "models"))
        monkeypatch.setenv("REGRAFT_TRITON_URLS", server.address)
        monkeypatch.setenv("REGRAFT_SCRATCH", str(tmp_path / "scratch"))
        monkeypatch.setenv("REGRAFT_TRITONSERVER", str(serve.home()))
        yield tmp_path


def start(place: Path, module: str = "components.deploy", *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, "--recipe", "recipe.yaml", "--store", "store", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def deploy(place: Path) -> tuple[int, str]:
    process = start(place, "components.deploy", "--run", champions.RUN)
    _, errors = process.communicate()
    return process.returncode, errors


def follow(place: Path, *more: str) -> tuple[int, dict[str, object]]:
    process = start(place, "components.deploy.follow", *more)
    output, errors = process.communicate()
    assert output, errors
    return process.returncode, json.loads(output)


def pointer(place: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((place / "store/tiny/runs" / champions.RUN / "deploy.json").read_text())
    return found


def ready() -> set[int]:
    return replica.ready(os.environ["REGRAFT_TRITON_URLS"], "tiny")


def test_metrics_say_how_old_the_data_of_the_champion_is(place: Path) -> None:
    assert deploy(place)[0] == Exit.DONE
    with urllib.request.urlopen(os.environ["METRICS"]) as answer:
        metrics = answer.read().decode()
    assert f'regraft_data_end_seconds{{model="tiny",version="1"}} {run_time(champions.RUN).timestamp():.0f}' in metrics


def test_a_deploy_is_cached_while_triton_agrees_and_repeated_when_it_does_not(place: Path) -> None:
    assert deploy(place)[0] == Exit.DONE
    assert (ready(), pointer(place)["cached"]) == ({1}, False)
    assert follow(place) == (
        Exit.DONE,
        {"champion": 1, "differences": [], "repaired": False, "refused": None},
    )
    assert deploy(place)[0] == Exit.DONE
    assert pointer(place)["cached"] is True
    replica.unload(os.environ["REGRAFT_TRITON_URLS"], "tiny")
    assert follow(place)[0] == Exit.REFUSED
    assert deploy(place)[0] == Exit.DONE
    assert (ready(), pointer(place)["cached"]) == ({1}, False)


def test_what_mends_a_replica_goes_by_the_recipe_of_the_champions_run(place: Path) -> None:
    assert deploy(place)[0] == Exit.DONE
    replica.unload(os.environ["REGRAFT_TRITON_URLS"], "tiny")
    champions.recipe_file(place, place / "base", serving="{latency_budget_ms: 0.01, parity: 1.0e-12}")
    code, said = follow(place, "--repair")
    assert (code, said["repaired"], ready()) == (Exit.DONE, True, {1})


TOO_STRICT = "{latency_budget_ms: 0.001, parity: 0.001}"


def ledger_of(place: Path) -> Ledger:
    return Ledger(Store(str(place / "store"), "tiny"))


def test_a_first_champion_that_cannot_be_served_never_was_one_and_is_tried_again_when_the_recipe_is_mended(
    place: Path,
) -> None:
    champions.recipe_file(place, place / "base", serving=TOO_STRICT)
    for _ in range(2):
        code, errors = deploy(place)
        assert code == Exit.REFUSED
        assert "is too slow" in errors
        assert "it did not become champion, and nothing is served" in errors
        assert pointer(place)["refused_by"] == "rollout"
        assert (ready(), ledger_of(place).entries()) == (set(), [])
        assert not (place / "models" / "tiny").exists()
        assert follow(place)[0] == Exit.DONE, "nothing should be served, and nothing is"
    champions.recipe_file(place, place / "base")
    assert deploy(place)[0] == Exit.DONE
    (entry,) = ledger_of(place).entries()
    assert (entry.kind, entry.version, entry.reason, ready()) == ("promote", 1, "test", {1})


def test_the_entry_of_a_first_champion_names_who_approved_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, store = champions.load_recipe(place / "recipe.yaml"), Store(str(place / "store"), "tiny")
    champions.hand_over(store, recipe, place, 1, approved_by="ana")
    monkeypatch.setenv("REGRAFT_WHO", "pod deploy-1")
    assert deploy(place)[0] == Exit.DONE
    assert [entry.who for entry in ledger_of(place).entries()] == ["pod deploy-1, approved by ana"]


def test_a_second_champion_that_was_taken_back_is_tried_again_when_the_recipe_is_mended(place: Path) -> None:
    assert deploy(place)[0] == Exit.DONE
    recipe, store = champions.load_recipe(place / "recipe.yaml"), Store(str(place / "store"), "tiny")
    champions.hand_over(store, recipe, place, 2)
    champions.promote(store, recipe, place, 2)
    champions.recipe_file(place, place / "base", serving=TOO_STRICT)
    for _ in range(2):
        code, errors = deploy(place)
        assert code == Exit.REFUSED
        assert "version 2 is too slow" in errors
        assert ready() == {1}
        found = [(entry.kind, entry.version, entry.refused) for entry in ledger_of(place).entries()]
        assert found == [("promote", 1, None), ("promote", 2, None), ("rollback", 1, 2)], "refused once, said once"
    champions.recipe_file(place, place / "base")
    assert deploy(place)[0] == Exit.DONE
    head = ledger_of(place).head()
    assert head is not None
    assert (head.sequence, head.kind, head.version, ready()) == (4, "promote", 2, {1, 2})
    assert deploy(place)[0] == Exit.DONE
    assert pointer(place)["cached"] is True


def test_a_rollback_by_hand_is_not_undone_by_a_repeated_run(place: Path) -> None:
    assert deploy(place)[0] == Exit.DONE
    recipe, store = champions.load_recipe(place / "recipe.yaml"), Store(str(place / "store"), "tiny")
    champions.hand_over(store, recipe, place, 2)
    second = champions.promote(store, recipe, place, 2)
    assert deploy(place)[0] == Exit.DONE
    ledger_of(place).again(second, ledger_of(place).entries()[0], kind="rollback", reason="by hand")
    assert deploy(place)[0] == Exit.DONE
    assert [entry.version for entry in ledger_of(place).entries()] == [1, 2, 1]
    assert ready() == {1}


def test_a_first_champion_that_an_older_regraft_withdrew_is_tried_again(place: Path) -> None:
    recipe, store = champions.load_recipe(place / "recipe.yaml"), Store(str(place / "store"), "tiny")
    first = champions.promote(store, recipe, place, 1)
    ledger_of(place).again(first, first, kind="withdraw", reason="too slow")
    assert deploy(place)[0] == Exit.DONE
    assert [entry.kind for entry in ledger_of(place).entries()] == ["promote", "withdraw", "promote"]
    assert ready() == {1}


def test_what_was_compared_with_nobody_does_not_replace_a_champion_that_came_first(place: Path) -> None:
    champions.promote(Store(str(place / "store"), "tiny"), champions.load_recipe(place / "recipe.yaml"), place, 2)
    code, errors = deploy(place)
    assert code == Exit.REFUSED
    assert "version 2 became champion before version 1 was served" in errors
    assert (ready(), len(ledger_of(place).entries())) == (set(), 1)


@pytest.mark.parametrize("mended_by", ["the same command", "the doctor"])
def test_a_deploy_that_dies_before_it_writes_the_first_entry_leaves_what_can_be_mended(
    place: Path, mended_by: str
) -> None:
    die = "Ledger.append = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    program = f"import os, runpy, signal\nfrom regraft.ledger import Ledger\n{die}\n"
    program += "runpy.run_module('components.deploy', run_name='__main__')"
    command = [sys.executable, "-c", program, "--recipe", "recipe.yaml", "--store", "store", "--run", champions.RUN]
    assert subprocess.run(command, cwd=place).returncode == -signal.SIGKILL
    assert (ready(), ledger_of(place).entries()) == ({1}, []), (
        "the narrowest point: it serves, and is not in the ledger"
    )
    code, said = follow(place)
    assert code == Exit.REFUSED
    assert "Triton serves version 1, which is not champion" in str(said["differences"])
    if mended_by == "the doctor":
        assert follow(place, "--repair")[0] == Exit.DONE
        assert (ready(), ledger_of(place).entries()) == (set(), [])
        assert follow(place)[0] == Exit.DONE
    assert deploy(place)[0] == Exit.DONE
    assert (ready(), [entry.version for entry in ledger_of(place).entries()]) == ({1}, [1])


def test_an_unreachable_triton_is_temporary(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_TRITON_URLS", f"127.0.0.1:{serve.free_ports().http}")
    code, errors = deploy(place)
    assert code == Exit.TEMPORARY
    assert "Triton cannot be reached" in errors
    assert not (place / "models" / "tiny").exists()


def test_killed_at_any_point_and_repeated_it_ends_as_if_undisturbed(place: Path) -> None:
    started = time.monotonic()
    assert deploy(place)[0] == Exit.DONE
    whole = time.monotonic() - started
    undisturbed = pointer(place)["identity"]
    digest = Store(str(place / "store"), "tiny").manifest(f"deploy/{undisturbed}").digest  # type: ignore[union-attr]
    recipe = champions.load_recipe(place / "recipe.yaml")
    store = Store(str(place / "store"), recipe.name)
    seed = random.randrange(1000)
    generator = random.Random(seed)
    for first in (False, True, True):
        if first:
            subprocess.run(["rm", "-rf", str(place / "store/tiny/ledger")], check=True)
        replica.unload(os.environ["REGRAFT_TRITON_URLS"], "tiny")
        store.clear(f"deploy/{undisturbed}")
        subprocess.run(["rm", "-rf", str(place / "models" / "tiny")], check=True)
        process = start(place, "components.deploy", "--run", champions.RUN)
        time.sleep(generator.uniform(0.2, whole))
        process.kill()
        process.communicate()
        assert deploy(place)[0] == Exit.DONE, f"seed {seed}"
        assert ready() == {1}
        assert sorted(p.name for p in (place / "models" / "tiny").iterdir()) == ["1", "config.pbtxt"]
        assert pointer(place)["identity"] == undisturbed
        assert store.manifest(f"deploy/{undisturbed}").digest == digest  # type: ignore[union-attr]
        assert len(Ledger(store).entries()) == 1
