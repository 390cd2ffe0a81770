"""The command line: light, clear about what is wrong, and readable by machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from regraft import recipe
from regraft.ledger import Ledger
from regraft.store import Store
from tests.unit.test_recipe import MINIMAL

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "mlflow", "airflow", "kfp", "great_expectations", "pandas", "pydantic", "fsspec")


def regraft(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("REGRAFT_", "MLFLOW_"))}
    command = [str(Path(sys.executable).with_name("regraft")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**known, **environment}, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder where a recipe has run and has two champions."""
    store = Store(str(tmp_path / ".regraft/store"), "reviews")
    store.replace("runs/2026-11-24T03-00/recipe.yaml", MINIMAL.encode())
    head = None
    for version in (1, 2):
        fields = {"model": f"{version}" * 64, "run": "2026-11-24T03-00", "evaluation": f"e{version}" * 32}
        head = Ledger(store).append(head, kind="promote", version=version, reason="better", who="ana", **fields)
    return tmp_path


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
sys.argv = ["regraft", "--help"]
from regraft.cli import app
try:
    app()
except SystemExit:
    print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "rollback" in done.stdout


def test_every_command_has_a_help_with_an_example() -> None:
    for command in ("run", "status", "history", "promote", "rollback", "doctor", "up", "down", "check", "schema"):
        done = regraft(command, "--help")
        assert done.returncode == 0
        assert f"regraft {command}" in done.stdout.split("Example")[-1], command


def test_the_old_word_for_check_still_works_and_is_not_shown() -> None:
    done = regraft("validate", "dags/recipes/movie-sentiment.yaml")
    assert done.returncode == 0
    assert done.stdout == regraft("check", "dags/recipes/movie-sentiment.yaml").stdout
    assert " validate " not in regraft("--help").stdout.split("Commands")[-1]


def test_check_finds_all_errors_at_once_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL + "trainin: {}\npromotion: maybe\n")
    done = regraft("check", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 20
    assert "recipe.yaml: 2 errors" in done.stderr
    assert "did you mean 'training'?" in done.stderr
    assert "promotion" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("base_model: {source: '${REGRAFT_DATA:-package://nope.sub/x}'}", "names no package"),
        ("base_model: {source: '${REGRAFT_DATA:-package://.x/x}'}", "names no package"),
        ("base_model: {source: '${REGRAFT_DATA:-http://[x/y}'}", "is no URL"),
        ("base_model: {source: '${REGRAFT_DATA:-hf://owner/name}'}", "needs revision"),
        ("base_model: {source: 'hdfs://'}", "names no place"),
        ("base_model: {source: package://m}\nschedule: {asset: '${REGRAFT_DATA}/x'}", "go by their names"),
        ("base_model: {source: package://m}\nschedule: {asset: '${X}/x', watch: true}", "may not name the variable X"),
    ],
)
def test_validate_looks_at_locations_with_their_variables_put_in(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(MINIMAL[: MINIMAL.index("base_model")] + line)
    done = regraft("check", file)
    assert done.returncode == 20
    assert said in " ".join(done.stderr.split())


def test_validate_names_every_variable_that_is_not_set(tmp_path: Path) -> None:
    text = MINIMAL.replace("source: s3://bucket/reviews/*.parquet", "source: ${NO_SUCH_DATA}/*.csv")
    text += (
        "schedule: {asset: '${NO_SUCH_BUCKET}/new', watch: true}\ngates: {forgetting: {anchor: '${NO_SUCH_SET:-x}'}}\n"
    )
    (tmp_path / "my [red] recipe.yaml").write_text(text)
    listed = {"REGRAFT_VARIABLES": "NO_SUCH_DATA, NO_SUCH_BUCKET,NO_SUCH_SET"}
    done = regraft("check", "my [red] recipe.yaml", cwd=tmp_path, **listed)
    assert done.returncode == 20
    assert "line 4: data.source: the environment variable NO_SUCH_DATA is not set" in done.stderr
    assert "line 9: schedule.asset: the environment variable NO_SUCH_BUCKET is not set" in done.stderr
    assert "NO_SUCH_SET" not in done.stderr
    set_here = listed | {"NO_SUCH_DATA": "x", "NO_SUCH_BUCKET": "s3://x"}
    done = regraft("check", "my [red] recipe.yaml", cwd=tmp_path, **set_here)
    assert done.returncode == 0, done.stderr
    assert "my [red] recipe.yaml" in done.stdout


def test_validate_tells_a_machine_which_run_is_due() -> None:
    done = regraft("check", "dags/recipes/movie-sentiment.yaml", "--json")
    assert json.loads(done.stdout)["recipe"] == "movie-sentiment"


def test_the_committed_schema_is_the_one_of_the_code() -> None:
    committed = json.loads((ROOT / "regraft/recipe.schema.json").read_text())
    assert committed == json.loads(regraft("schema").stdout) == recipe.json_schema()


def test_a_run_without_servers_says_regraft_up(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    done = regraft("run", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 75
    assert "next:  regraft up" in done.stderr
    assert not (tmp_path / ".regraft/store").exists(), "nothing was started"


def test_history_tells_a_machine_every_entry(folder: Path) -> None:
    entries = json.loads(regraft("history", "reviews", "--json", cwd=folder).stdout)
    assert [(entry["version"], entry["who"], entry["reason"]) for entry in entries] == [
        (1, "ana", "better"),
        (2, "ana", "better"),
    ]


def test_history_and_doctor_show_that_a_champion_was_withdrawn(folder: Path) -> None:
    (folder / ".regraft/store/reviews/ledger/00000002.json").unlink()
    ledger = Ledger(Store(str(folder / ".regraft/store"), "reviews"))
    first = ledger.head()
    assert first is not None
    about = first.model_dump(include={"version", "model", "run", "evaluation"})
    ledger.append(first, kind="withdraw", reason="rollout of version 1 failed: is too slow", **about)
    shown = regraft("history", "reviews", cwd=folder).stdout
    assert re.search(r"2 +1 +withdraw .*is too slow", shown)
    assert "version 1 was withdrawn: there is no champion" in regraft("doctor", "reviews", cwd=folder).stdout
    assert json.loads(regraft("status", "--json", cwd=folder).stdout)[0]["champion"] is None
    assert regraft("rollback", "reviews", cwd=folder).returncode == 20


def test_a_name_that_is_almost_right_is_recognised(folder: Path) -> None:
    done = regraft("history", "review", cwd=folder)
    assert done.returncode == 20
    assert "did you mean 'reviews'?" in done.stderr


def test_a_rollback_counts_although_no_server_could_follow(folder: Path) -> None:
    done = regraft("rollback", "reviews", "--reason", "complaints", cwd=folder)
    assert done.returncode == 75
    assert "next:  regraft up" in done.stderr or "regraft doctor --repair" in done.stderr
    entries = json.loads(regraft("history", "reviews", "--json", cwd=folder).stdout)
    assert [(e["kind"], e["version"], e["reason"]) for e in entries][-1] == ("rollback", 1, "complaints")


def test_a_first_champion_cannot_be_rolled_back(folder: Path) -> None:
    (folder / ".regraft/store/reviews/ledger/00000002.json").unlink()
    done = regraft("rollback", "reviews", cwd=folder)
    assert done.returncode == 20
    assert "nothing was changed" in done.stderr


def test_a_version_that_never_was_cannot_be_promoted(folder: Path) -> None:
    done = regraft("promote", "reviews", "--version", "9", cwd=folder)
    assert done.returncode == 20
    assert "no version 9 of reviews was champion, or waits for approval or to be served" in done.stderr


def test_doctor_names_a_gap_in_the_ledger(folder: Path) -> None:
    (folder / ".regraft/store/reviews/ledger/00000001.json").unlink()
    done = regraft("doctor", "--json", cwd=folder)
    assert done.returncode == 20
    (check,) = json.loads(done.stdout)["reviews"]
    assert "the ledger has a gap" in check["says"]


def test_doctor_writes_an_index_that_is_missing_or_wrong_anew(folder: Path) -> None:
    index = folder / ".regraft/store/reviews/ledger/index.json"
    right = index.read_bytes()
    for wrong in (None, b"[]", right.replace(b"1" * 64, b"9" * 64), right[:-9]):
        index.unlink()
        if wrong is not None:
            index.write_bytes(wrong)
        said = {c["check"]: c for c in json.loads(regraft("doctor", "--json", cwd=folder).stdout)["reviews"]}
        assert said["ledger"]["healthy"], "all entries are there"
        assert not said["index"]["healthy"]
        assert (index.read_bytes() if index.exists() else None) == wrong, "without --repair nothing is changed"
        repaired = json.loads(regraft("doctor", "--repair", "--json", cwd=folder).stdout)["reviews"]
        assert {"check": "index", "healthy": True, "says": "mended"} in repaired
        assert index.read_bytes() == right


def test_down_stops_nothing_where_nothing_is_up(tmp_path: Path) -> None:
    done = regraft("down", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "nothing was up")
