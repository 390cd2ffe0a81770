"""What the store promises, on a local directory and on an S3 server; what only a local disk can do comes last."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import AlreadyExists, BadInput, NotFound, Temporary
from regraft.manifest import Manifest
from regraft.store import Store

IDENTITY = "abc0" * 16
PREFIX = f"finetune/{IDENTITY}"


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else str(request.getfixturevalue("s3"))


@pytest.fixture
def store(url: str) -> Store:
    return Store(url, "tiny")


def fields() -> dict[str, Any]:
    return {"step": "finetune", "identity": IDENTITY, "document": {"inputs": {}}, "created_at": datetime.now(UTC)}


def folder(parent: Path, content: str = "weights", *, more: int = 3) -> Path:
    made = parent / f"out-{content[:20]}"
    (made / "adapter").mkdir(parents=True)
    (made / "adapter" / "weights.bin").write_text(content)
    for i in range(more):
        (made / f"file-{i}.json").write_text(f"{content} {i}")
    return made


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What each of that many threads returned or raised, all let go at the same moment."""
    barrier = threading.Barrier(count)

    def one(i: int) -> Any:
        barrier.wait()
        try:
            return act(i)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_twenty_writers_of_a_key_one_wins_and_the_others_learn_of_it(store: Store, url: str) -> None:
    ends = at_once(20, lambda i: Store(url, "tiny").create("ledger/00000001.json", b"%d" % i))
    winners = [i for i, end in enumerate(ends) if end is None]
    assert len(winners) == 1
    assert all(isinstance(end, AlreadyExists) for i, end in enumerate(ends) if i not in winners)
    assert store.read("ledger/00000001.json") == b"%d" % winners[0]
    assert store.names("ledger") == ["00000001.json"], "and nothing half-written is left"


def test_of_eight_publishers_one_wins_and_the_others_get_its_manifest(store: Store, url: str, tmp_path: Path) -> None:
    folders = [folder(tmp_path, f"content {i}") for i in range(8)]
    ends = at_once(8, lambda i: Store(url, "tiny").publish(PREFIX, folders[i], fields()))
    assert not [end for end in ends if isinstance(end, Exception)]
    assert len({manifest.attempt for manifest in ends}) == 1
    fetched = store.fetch(PREFIX, ends[0], tmp_path / "fetched")
    assert (fetched / "adapter" / "weights.bin").read_text() in {f"content {i}" for i in range(8)}


def test_what_attempts_before_left_is_swept_by_the_one_that_wins(store: Store, tmp_path: Path) -> None:
    store.replace(f"{PREFIX}/attempt-dead/half", b"...")
    store.replace(f"{PREFIX}/checkpoints/00000010/attempt-x/weights", b"...")
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    assert store.names(PREFIX) == [manifest.attempt, "manifest.json"]


def test_an_upload_that_fails_half_way_shows_nothing_and_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file, uploaded = store._fs.put_file, []

    def fails(*arguments: Any, **options: Any) -> Any:
        if len(uploaded) == 2:
            raise OSError(errno.EIO, "the disk died")
        uploaded.append(arguments)
        return put_file(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(store._fs, "put_file", fails)
        with pytest.raises(Temporary, match="the disk died"):
            store.publish(PREFIX, folder(tmp_path), fields())
    assert store.manifest(PREFIX) is None
    assert store.names(PREFIX) == []
    assert store.publish(PREFIX, folder(tmp_path, "again"), fields()).outputs


def test_a_signal_in_an_upload_is_never_taken_for_a_lost_race(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(PREFIX, folder(tmp_path), fields())

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store._fs, "put_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.publish(PREFIX, folder(tmp_path, "other"), fields())


def test_a_loser_whose_folder_was_swept_gets_the_winners_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making its folder and putting the first file into it."""
    store, won = Store(str(tmp_path / "store"), "tiny"), []
    put_file = store._fs.put_file

    def swept(*arguments: Any, **options: Any) -> Any:
        if not won:
            won.append(None)
            won[0] = store.publish(PREFIX, folder(tmp_path, "winner"), fields())
        return put_file(*arguments, **options)

    monkeypatch.setattr(store._fs, "put_file", swept)
    lost = store.publish(PREFIX, folder(tmp_path, "loser"), fields())
    assert lost == won[0]
    assert store.names(PREFIX) == [lost.attempt, "manifest.json"]


def test_the_same_files_have_the_same_digest_whoever_published_them(store: Store, tmp_path: Path) -> None:
    out = folder(tmp_path)
    first = store.publish("finetune/a", out, fields())
    second = store.publish("finetune/b", out, {**fields(), "created_at": datetime(2020, 1, 1, tzinfo=UTC)})
    assert first.digest == second.digest
    assert first.attempt != second.attempt


def test_views_are_kept_apart_from_outputs(store: Store, tmp_path: Path) -> None:
    manifest = store.publish(PREFIX, folder(tmp_path), fields(), views=("adapter", "file-0.json"))
    assert set(manifest.views) == {"adapter/weights.bin", "file-0.json"}
    assert set(manifest.outputs) == {"file-1.json", "file-2.json"}


def test_fetch_takes_only_what_was_asked_for(store: Store, tmp_path: Path) -> None:
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    fetched = store.fetch(PREFIX, manifest, tmp_path / "fetched", only=("adapter", "file-1.json"))
    found = {path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()}
    assert found == {"adapter/weights.bin", "file-1.json"}


def test_a_damaged_file_is_never_handed_on(store: Store, tmp_path: Path) -> None:
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    store.replace(f"{PREFIX}/{manifest.attempt}/adapter/weights.bin", b"wei\x00hts")
    with pytest.raises(BadInput, match="does not have the SHA-256") as raised:
        store.fetch(PREFIX, manifest, tmp_path / "fetched")
    assert "weights.bin" in str(raised.value.where)
    assert not (tmp_path / "fetched" / "adapter" / "weights.bin").exists()


def test_a_lost_file_is_named(store: Store, tmp_path: Path) -> None:
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    store.remove(f"{PREFIX}/{manifest.attempt}/adapter/weights.bin")
    with pytest.raises(NotFound, match="not in the store"):
        store.fetch(PREFIX, manifest, tmp_path / "fetched")


def test_a_damaged_manifest_or_pointer_is_a_clear_error(store: Store) -> None:
    store.replace(f"{PREFIX}/manifest.json", b'{"format": 1, "recipe"')
    with pytest.raises(BadInput, match="damaged, not a manifest"):
        store.manifest(PREFIX)
    store.replace("runs/r/validate.json", b"\xff{")
    with pytest.raises(BadInput, match="damaged, not JSON"):
        store.read_json("runs/r/validate.json")


@pytest.mark.parametrize(
    ("step", "sentence", "refused_by"),
    [
        ("validate", "the data breaks the contract: rows: 3", "contract"),
        ("evaluate", "Hold: too few rows", "gate"),
        ("promote", "waiting for approval: regraft promote tiny --version 3", "approval"),
        ("promote", "Reject: worse. Decided again by promote", "gate"),
        ("deploy", "version 1 is too slow", "rollout"),
        ("deploy", None, None),
    ],
)
def test_a_manifest_from_before_refusals_had_a_kind_says_it_all_the_same(
    store: Store, tmp_path: Path, step: str, sentence: str | None, refused_by: str | None
) -> None:
    store.publish(f"{step}/{IDENTITY}", folder(tmp_path), {**fields(), "step": step, "refused": sentence})
    key = f"{step}/{IDENTITY}/manifest.json"
    written = {key: value for key, value in store.read_json(key).items() if key != "refused_by"}
    store.replace(key, json.dumps(written).encode())
    manifest = store.manifest(f"{step}/{IDENTITY}")
    assert manifest is not None
    assert manifest.refused_by == refused_by


def test_clearing_a_result_leaves_another_attempts_upload_alone(store: Store, tmp_path: Path) -> None:
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    store.replace(f"{PREFIX}/attempt-other/half", b"...")
    store.clear(PREFIX)
    assert store.manifest(PREFIX) is None
    assert not store.exists(f"{PREFIX}/{manifest.attempt}/file-0.json")
    assert store.read(f"{PREFIX}/attempt-other/half") == b"..."


def test_what_another_process_wrote_is_seen_at_once(store: Store, url: str) -> None:
    """No listing and no answer to `exists` is cached."""
    other = Store(url, "tiny")
    assert store.names("ledger") == []
    assert not store.exists("ledger/00000001.json")
    other.create("ledger/00000001.json", b"1")
    assert store.names("ledger") == ["00000001.json"]
    assert store.exists("ledger/00000001.json")
    other.replace("ledger/00000001.json", b"2")
    assert store.read("ledger/00000001.json") == b"2"
    other.remove("ledger/00000001.json")
    assert store.names("ledger") == []
    assert store.manifest(PREFIX) is None


def test_a_key_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(NotFound) as raised:
        store.read("runs/r/validate.json")
    assert raised.value.where == f"{store.url}/tiny/runs/r/validate.json"
    store.remove("nothing/there")


def test_recipes_do_not_see_each_other(url: str) -> None:
    Store(url, "one").create("ledger/00000001.json", b"1")
    assert Store(url, "two").names("ledger") == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, where this user may mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield point
    subprocess.run(["umount", point], check=True)


def test_a_full_disk_is_temporary_and_shows_nothing(disk: Path, tmp_path: Path) -> None:
    store = Store(str(disk), "tiny")
    store.create("ledger/00000001.json", b"{}")
    with pytest.raises(Temporary, match="the disk is full"):
        store.publish(PREFIX, folder(tmp_path, "x" * 2_000_000), fields())
    assert store.manifest(PREFIX) is None
    with pytest.raises(Temporary, match="the disk is full"):
        store.create("ledger/00000002.json", b"x" * 2_000_000)
    assert store.names("ledger") == ["00000001.json"]
    assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "tiny/ledger/00000001.json"]
    assert store.publish(PREFIX, folder(tmp_path, "small"), fields()).outputs, "and with space it goes on"


def test_a_full_disk_is_temporary_whoever_mounts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without a real disk, for users who may not mount one."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    store = Store(str(tmp_path), "tiny")
    with pytest.raises(Temporary, match="the disk is full"):
        store.create("ledger/00000001.json", b"{}")
    assert store.names("ledger") == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_read_only_store_is_bad_input_and_can_still_be_read(disk: Path, tmp_path: Path) -> None:
    store = Store(str(disk), "tiny")
    manifest = store.publish(PREFIX, folder(tmp_path), fields())
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for write in (store.create, store.replace):
        with pytest.raises(BadInput, match="the store cannot be written"):
            write("ledger/00000001.json", b"{}")
    with pytest.raises(BadInput, match="the store cannot be written"):
        store.publish("finetune/other", folder(tmp_path, "other"), fields())
    assert store.manifest(PREFIX) == manifest
    assert store.fetch(PREFIX, manifest, tmp_path / "fetched").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_of_somebody_else_is_bad_input(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(BadInput, match="refuses access"):
        Store(str(tmp_path), "tiny").create("ledger/00000001.json", b"{}")


def test_a_file_where_a_folder_should_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot be written"):
        Store(str(tmp_path / "store"), "tiny").create("ledger/00000001.json", b"{}")


def test_a_protocol_that_nobody_knows_is_bad_input() -> None:
    with pytest.raises(BadInput, match="not a URL that fsspec can open"):
        Store("nonsense://bucket/prefix", "tiny")


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3:", "gs://", "file://", "memory://"])
def test_a_url_without_a_bucket_is_refused_and_makes_no_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="names no"):
        Store(url, "tiny").create("key", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_path_that_is_too_long_or_goes_in_a_circle_is_bad_input(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / ("x" * 300), tmp_path / "loop"):
        with pytest.raises(BadInput) as raised:
            Store(f"{scheme}{path}", "tiny").create("key", b"")
        assert "--store" in str(raised.value.next)


@pytest.mark.usefixtures("s3")
def test_a_bucket_of_a_name_that_none_can_have_is_bad_input() -> None:
    with pytest.raises(BadInput, match="Invalid bucket name"):
        Store("s3://A!B/x", "tiny").create("key", b"")


def test_a_manifest_reads_back_as_it_was_written(store: Store, tmp_path: Path) -> None:
    written = store.publish(PREFIX, folder(tmp_path), fields())
    assert store.manifest(PREFIX) == written
    assert isinstance(written, Manifest)
