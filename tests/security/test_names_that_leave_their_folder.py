"""Whoever can write to a store or a base model's bucket chooses names; none of them may leave its folder here."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from regraft import base_model, snapshot, sources
from regraft.errors import BadInput
from regraft.manifest import FileRecord, Manifest
from regraft.step import upstream
from regraft.store import Store
from tests import champions
from tests.worlds import RUN

IDENTITY = "a1" * 32
PREFIX = f"evaluate/{IDENTITY}"
LEAVING = [
    "../escaped",
    "../../../../../../escaped",
    "verdict.json/../../../escaped",
    "a/../../escaped",
    "a//escaped",
    "./escaped",
    "..",
    "",
    "..\\escaped",
    "C:escaped",
    "a\x00escaped",
    "a\nescaped",
]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    url = str(tmp_path / "store") if request.param == "local" else str(request.getfixturevalue("s3"))
    return Store(url, "tiny")


def put(store: Store, key: str, content: bytes) -> None:
    """Writes a key as somebody does who has the disk or the bucket, and not our code."""
    if store.url.startswith("s3://"):
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/tiny/{key}", Body=content)
    else:
        path = Path(f"{store.url}/tiny/{key}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def fields(**more: Any) -> dict[str, Any]:
    about = {"step": "evaluate", "identity": IDENTITY, "document": {"inputs": {}}, "created_at": datetime.now(UTC)}
    return about | more


def manifest(*names: str, content: bytes = b"stolen", **more: Any) -> Manifest:
    record = FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    about = fields(recipe="tiny", attempt=f"attempt-{'0' * 12}", outputs=dict.fromkeys(names, record))
    return Manifest(**about | more)


def written(folder: Path) -> set[str]:
    """All files below a folder but those of the store."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in files if not name.startswith("store/")}


@pytest.mark.parametrize("name", LEAVING)
def test_a_manifest_cannot_have_files_written_outside_the_folder(store: Store, tmp_path: Path, name: str) -> None:
    found = manifest(name)
    with pytest.raises(BadInput, match="leaves its folder") as raised:
        store.fetch(PREFIX, found, tmp_path / "a" / "b" / "scratch")
    assert raised.value.where == store.where(f"{PREFIX}/manifest.json")
    assert "regraft writes none like it" in str(raised.value.next)
    assert written(tmp_path) == set()
    put(store, f"{PREFIX}/manifest.json", found.model_dump_json().encode())
    with pytest.raises(BadInput, match="leaves its folder"):
        store.manifest(PREFIX)


def test_an_absolute_name_is_not_written_where_it_says(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "dags" / "evil.py"
    target.parent.mkdir()
    found = manifest(str(target))
    put(store, f"{PREFIX}/{found.attempt}/{target}", b"stolen")
    with pytest.raises(BadInput, match="leaves its folder"):
        store.fetch(PREFIX, found, tmp_path / "scratch")
    assert written(tmp_path) == set()


def test_the_question_that_airflow_asks_for_approval_writes_no_dag(store: Store, tmp_path: Path) -> None:
    """`verdict.json/../..` begins with the one name that it fetches; the folder of DAGs is code that runs."""
    dags, scratch = tmp_path / "dags", tmp_path / "tmp" / "question"
    dags.mkdir()
    scratch.mkdir(parents=True)
    name = "verdict.json/../../../dags/evil.py"
    found = manifest(name)
    put(store, f"{PREFIX}/{found.attempt}/verdict.json/x", b"")  # a disk needs the folder that it leaves again
    key = f"{PREFIX}/{found.attempt}/{name}"
    put(store, key, b"stolen")
    if not store.url.startswith("s3://"):
        (tmp_path / "tmp" / "question" / "verdict.json").mkdir()
    with pytest.raises(BadInput, match="leaves its folder"):
        store.fetch(f"evaluate/{found.identity}", found, scratch, only=("verdict.json",))
    assert written(tmp_path) == set()


def test_airflows_own_words_for_it_write_no_dag_either(store: Store, tmp_path: Path) -> None:
    """`airflow_approval.question` itself, in the environment that has Airflow."""
    python = Path(__file__).parents[2] / ".venv-airflow" / "bin" / "python"
    if not python.exists():
        pytest.skip("make airflow-environment")
    (tmp_path / "dags").mkdir()
    (tmp_path / "tmp").mkdir()
    name = "verdict.json/../../../dags/evil.py"
    found = manifest(name)
    put(store, f"{PREFIX}/{found.attempt}/verdict.json/x", b"")
    put(store, f"{PREFIX}/{found.attempt}/{name}", b"stolen")
    put(store, f"{PREFIX}/manifest.json", found.model_dump_json().encode())
    put(store, f"runs/{RUN}/evaluate.json", json.dumps({"state": "done", "identity": IDENTITY}).encode())
    code = (
        "import sys, tempfile; from regraft.runners.airflow_approval import question; from regraft.store import Store;"
        f"tempfile.tempdir = {str(tmp_path / 'tmp')!r};"
        f"print(question(Store({store.url!r}, 'tiny'), {RUN!r}, ''))"
    )
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stderr
    assert "The verdict could not be read" in asked.stdout
    assert written(tmp_path) == set()


@pytest.mark.parametrize(
    "lie",
    [
        {"identity": "../../../escaped"},
        {"identity": "b2" * 32},
        {"step": "../../escaped"},
        {"step": "finetune"},
        {"attempt": "../../../../escaped"},
        {"attempt": "attempt-../x"},
        {"attempt": ""},
    ],
)
def test_a_manifest_that_says_it_is_another_is_refused(store: Store, lie: dict[str, str]) -> None:
    put(store, f"{PREFIX}/manifest.json", manifest("verdict.json", **lie).model_dump_json().encode())
    with pytest.raises(BadInput, match="says that it is attempt") as raised:
        store.manifest(PREFIX)
    assert raised.value.where == store.where(f"{PREFIX}/manifest.json")


@pytest.mark.parametrize("identity", ["../../other/evaluate/" + IDENTITY, f"{IDENTITY}/attempt-{'0' * 12}", "shadow"])
def test_a_pointer_leads_to_results_only(store: Store, identity: str) -> None:
    found = manifest("verdict.json", identity=identity)
    put(Store(store.url, "tiny"), f"evaluate/{identity}/manifest.json", found.model_dump_json().encode())
    put(store, "evaluate/x", b"")
    put(store, f"runs/{RUN}/evaluate.json", json.dumps({"state": "done", "identity": identity}).encode())
    with pytest.raises(BadInput, match="is no place of a result"):
        upstream(store, RUN, "evaluate")


@pytest.mark.parametrize("key", ["../other/ledger/00000001.json", "/etc/passwd", "runs/../../other/x", ""])
def test_no_key_leaves_the_recipes_part_of_the_store(store: Store, key: str) -> None:
    put(store, "../other/ledger/00000001.json", b"{}")
    put(store, "runs/x", b"")
    for ask in (
        lambda: store.read(key),
        lambda: store.create(key, b"x"),
        lambda: store.replace(key, b"x"),
        lambda: store.remove(key),
        lambda: store.names(key),
        lambda: store.exists(key),
    ):
        with pytest.raises(BadInput, match="leaves its folder"):
            ask()
    with pytest.raises(BadInput, match="is no place of a result"):
        store.manifest(key)


def test_a_recipe_that_is_not_what_its_name_says_is_not_read(store: Store, tiny_recipe: bytes) -> None:
    digest = snapshot.keep(store, tiny_recipe)
    assert snapshot.by_digest(store, digest).name == "tiny"
    put(store, f"recipes/{digest}.yaml", tiny_recipe + b"# changed\n")
    with pytest.raises(BadInput, match="does not have the SHA-256 that it is named by"):
        snapshot.by_digest(store, digest)
    pointer = {"state": "done", "identity": IDENTITY, "recipe_sha256": "../evil"}
    put(store, f"runs/{RUN}/finetune.json", json.dumps(pointer).encode())
    put(store, "evil.yaml", tiny_recipe)
    put(store, "recipes/x", b"")
    with pytest.raises(BadInput, match="leaves its folder"):
        snapshot.of_run(store, RUN)


@pytest.fixture
def tiny_recipe(tiny_base: Path, tmp_path: Path) -> bytes:
    return champions.recipe_file(tmp_path, tiny_base).read_bytes()


def test_a_link_in_a_store_on_a_disk_leads_nowhere_else(tmp_path: Path) -> None:
    """Publishing sweeps what attempts before it left: through a link it would have swept somebody's home."""
    home, store, out = tmp_path / "home", Store(str(tmp_path / "store"), "tiny"), tmp_path / "out"
    for folder in (home / "letters", out, tmp_path / "store" / "tiny" / "evaluate"):
        folder.mkdir(parents=True)
    (home / "letters" / "dear").write_text("all my letters")
    (out / "verdict.json").write_text("{}")
    (tmp_path / "store" / "tiny" / PREFIX).symlink_to(home)
    with pytest.raises(BadInput, match="is a link, or lies behind one"):
        store.publish(PREFIX, out, fields())
    assert (home / "letters" / "dear").exists()


def test_a_store_may_itself_be_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store, out = Store(str(tmp_path / "store"), "tiny"), tmp_path / "out"
    out.mkdir()
    (out / "verdict.json").write_text("{}")
    found = store.publish(PREFIX, out, fields())
    assert (store.fetch(PREFIX, found, tmp_path / "fetched") / "verdict.json").read_text() == "{}"


def test_a_link_among_a_steps_files_publishes_nothing_of_the_machine(store: Store, tmp_path: Path) -> None:
    """As in a version directory of the model repository, which deploy copies."""
    secret, out = tmp_path / "token", tmp_path / "out"
    secret.write_text("the service account's")
    out.mkdir()
    (out / "model.onnx").symlink_to(secret)
    with pytest.raises(BadInput, match="is a link, or lies behind one"):
        store.publish(PREFIX, out, fields())
    assert store.manifest(PREFIX) is None


@pytest.mark.parametrize("key", ["../../../up.json", "sub/../../../../w.json", "..\\x.json", "/config.json"])
def test_a_base_models_bucket_cannot_have_files_written_outside_the_folder(s3: str, tmp_path: Path, key: str) -> None:
    """Nor over another of its files, as `base//config.json` would be."""
    bucket = s3.removeprefix("s3://").partition("/")[0]
    for name in ("config.json", "model.safetensors", key):
        boto3.client("s3").put_object(Bucket=bucket, Key=f"base/{name}", Body=b"x")
    with pytest.raises(BadInput, match="leaves its folder"):
        sources.pretrained(f"s3://{bucket}/base", None, tmp_path / "a" / "b" / "base")
    assert written(tmp_path) == set()


def test_an_index_of_weights_names_files_of_its_own_folder_only(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / base_model.WEIGHTS).rename(tmp_path / "others.safetensors")
    (base / base_model.INDEX).write_text(json.dumps({"weight_map": {"a": "../others.safetensors"}}))
    declared = champions.load_recipe(champions.recipe_file(tmp_path, base))
    with pytest.raises(BadInput, match="leaves its folder"):
        base_model.check(declared, base)


@pytest.mark.parametrize("path", ["../json", "/etc", "a/../../json"])
def test_a_packages_location_stays_in_the_package(path: str) -> None:
    with pytest.raises(BadInput, match="leaves its folder"):
        sources.expand(f"package://yaml/{path}")
