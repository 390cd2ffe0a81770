"""What `regraft submit` sends to Kubeflow Pipelines, checked on a stand-in for its API (tests/kubeflow/api.py)."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from regraft.errors import BadInput
from regraft.parts import Schedule
from regraft.runners import kubeflow
from regraft.runners.cluster import Cluster
from tests.kubeflow.api import Api
from tests.kubeflow.conftest import ROOT, regraft
from tests.unit.test_recipe import MINIMAL

CLUSTER = ROOT / "dags/cluster.yaml"
WEEKLY = 'schedule: {cron: "0 3 * * 1"}\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.yaml"
    file.write_text(MINIMAL + WEEKLY)
    return file


def submitted(recipe: Path, host: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return regraft("submit", recipe, "--to", "kfp", "--host", host, "--cluster", CLUSTER, *more, **environment)


def submit(recipe: Path, server: Api, *more: str, **environment: str) -> str:
    done = submitted(recipe, server.host, *more, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_schedule_becomes_a_recurring_run_without_catch_up_one_at_a_time(recipe: Path, server: Api) -> None:
    assert "created" in submit(recipe, server, "--schedule")
    (run,) = server.collections["recurringruns"]
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (run["no_catchup"], run["max_concurrency"], run["mode"]) == (True, 1, "ENABLE")
    assert (run["display_name"], run["service_account"]) == ("reviews", "regraft-pipeline")
    (experiment,) = server.collections["experiments"]
    assert (experiment["display_name"], run["experiment_id"]) == ("reviews", experiment["experiment_id"])
    assert (
        run["pipeline_version_reference"]["pipeline_version_id"]
        == server.collections["versions"][0]["pipeline_version_id"]
    )


def test_the_version_that_a_recurring_run_names_is_the_compiled_pipeline(
    recipe: Path, server: Api, tmp_path: Path
) -> None:
    submit(recipe, server, "--schedule")
    regraft("compile", recipe, "--to", "kfp", "-o", tmp_path / "pipeline.yaml", "--cluster", CLUSTER)
    compiled = (tmp_path / "pipeline.yaml").read_text()
    (version,) = server.collections["versions"]
    assert compiled in version["package"]
    assert re.fullmatch(r"[0-9a-f]{16}", version["display_name"])


def test_submitting_twice_changes_nothing(recipe: Path, server: Api) -> None:
    submit(recipe, server, "--schedule")
    before = yaml.safe_dump(server.collections)
    assert "unchanged" in submit(recipe, server, "--schedule")
    assert yaml.safe_dump(server.collections) == before


def test_a_changed_recipe_takes_the_place_of_the_old_one_and_stays_paused(recipe: Path, server: Api) -> None:
    submit(recipe, server, "--schedule")
    server.collections["recurringruns"][0]["mode"] = "DISABLE"
    recipe.write_text(MINIMAL + WEEKLY.replace("1", "2"))
    assert "replaced" in submit(recipe, server, "--schedule")
    (run,) = server.collections["recurringruns"]
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 2"
    assert run["mode"] == "DISABLE"
    written = [line for line in server.log if "recurringruns" in line and "GET" not in line]
    assert [line.split()[0] for line in written] == ["POST", "POST", "DELETE"], "never without a schedule"


def test_without_schedule_one_run_starts(recipe: Path, server: Api) -> None:
    assert "/#/runs/details/" in submit(recipe, server)
    (run,) = server.collections["runs"]
    assert run["display_name"] == "reviews"
    assert "recurringruns" not in server.collections


def test_a_host_that_is_not_there_is_one_clear_error(recipe: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = submitted(recipe, host)
    assert done.returncode == 75
    assert f"{host}: no Kubeflow Pipelines server answers" in done.stderr
    assert "port-forward" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_goes_away_half_way_is_one_clear_error(recipe: Path, server: Api) -> None:
    server.dies = True
    done = submitted(recipe, server.host)
    assert done.returncode == 75
    assert "the server went away" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_login_page_is_not_taken_for_the_api(recipe: Path, server: Api) -> None:
    server.login_page = True
    done = submitted(recipe, server.host)
    assert done.returncode == 20
    assert "may be a login page" in done.stderr


def test_a_token_comes_from_the_environment(recipe: Path, server: Api) -> None:
    server.token = "secret"
    done = submitted(recipe, server.host)
    assert done.returncode == 20
    assert "refuses access (401" in done.stderr
    assert "KFP_TOKEN" in done.stderr
    assert "started" in submit(recipe, server, KFP_TOKEN="secret")


def test_without_a_store_nothing_is_sent(recipe: Path, server: Api) -> None:
    done = regraft("submit", recipe, "--to", "kfp", "--host", server.host)
    assert done.returncode == 20
    assert "name no store" in done.stderr
    assert server.log == []


def test_a_recipe_without_schedule_has_nothing_to_schedule(recipe: Path, server: Api) -> None:
    recipe.write_text(MINIMAL)
    done = submitted(recipe, server.host, "--schedule")
    assert done.returncode == 20
    assert "the recipe has no schedule" in done.stderr
    assert server.log == [], "and nothing was sent"


@pytest.mark.parametrize("expression", ["0 3 * * 1", "*/15 8-18 * * mon-fri", "30 4 1,15 * *"])
def test_a_cron_expression_gets_its_seconds(expression: str) -> None:
    assert kubeflow.cron(Schedule(cron=expression), cluster=Cluster()) == f"0 {expression}"


def test_sunday_is_0_since_kubeflow_knows_no_7() -> None:
    assert kubeflow.cron(Schedule(cron="0 3 * * 7"), cluster=Cluster()) == "0 0 3 * * 0"
    assert kubeflow.cron(Schedule(cron="0 3 * * 5-7"), cluster=Cluster()) == "0 0 3 * * 0,5,6"


def test_a_recipe_that_waits_for_an_asset_is_refused() -> None:
    with pytest.raises(BadInput, match="by cron only"):
        kubeflow.cron(Schedule(asset="s3://bucket/reviews"), cluster=Cluster())


def test_a_schedule_in_another_time_zone_than_kubeflows_is_refused() -> None:
    schedule = Schedule(cron="0 3 * * 1", timezone="Europe/Berlin")
    with pytest.raises(BadInput, match="all schedules in one time zone, UTC"):
        kubeflow.cron(schedule, cluster=Cluster())
    assert kubeflow.cron(schedule, cluster=Cluster(timezone="Europe/Berlin")) == "0 0 3 * * 1"
