"""deploy as a process: exit codes, the cached run, and SIGKILL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.deploy import replica, serve
from regraft.errors import Exit
from regraft.ledger import Ledger
from regraft.pipeline import run_time
from regraft.store import Store
from tests import champions

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a recipe, a store whose ledger names version 1, and a replica."""
    recipe = champions.load_recipe(champions.recipe_file(tmp_path, champions.base(tmp_path / "base")))
    store = Store(str(tmp_path / "store"), recipe.name)
    champions.promote(store, recipe, tmp_path, 1)
    store.replace(f"runs/{champions.RUN}/recipe.yaml", (tmp_path / "recipe.yaml").read_bytes())
    (tmp_path / "promote").mkdir()
    champions.publish(store, "promote", "promoted", tmp_path / "promote")
    champions.point(store, "promote", "promoted")
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
    assert follow(place)[0] == Exit.REFUSED
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


def test_a_first_champion_that_is_too_slow_is_withdrawn_until_somebody_promotes_it(place: Path) -> None:
    champions.recipe_file(place, place / "base", serving="{latency_budget_ms: 0.01, parity: 0.001}")
    code, errors = deploy(place)
    assert code == Exit.REFUSED
    assert "is too slow" in errors
    assert "there is no champion and nothing is served" in errors
    assert ready() == set()
    ledger = Ledger(Store(str(place / "store"), "tiny"))
    assert [entry.kind for entry in ledger.entries()] == ["promote", "withdraw"]
    withdrawn = ledger.newest()
    assert withdrawn is not None
    assert "is too slow" in withdrawn.reason
    assert ledger.head() is None
    assert follow(place)[0] == Exit.DONE, "nothing should be served, and nothing is"
    assert deploy(place)[0] == Exit.REFUSED
    assert pointer(place)["cached"] is True
    champions.recipe_file(place, place / "base")
    code, errors = deploy(place)
    assert code == Exit.REFUSED
    assert "regraft promote tiny --version 1 tries it again" in errors
    about = withdrawn.model_dump(include={"version", "model", "run", "evaluation"})
    ledger.append(None, kind="promote", reason="by hand", **about)
    assert deploy(place)[0] == Exit.DONE, "a refusal is not kept as a cached result"
    assert ready() == {1}


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
    for _ in range(3):
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
