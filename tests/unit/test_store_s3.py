"""What can go wrong with a bucket, against moto's S3 server; and a whole step on one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
import s3fs

from regraft.errors import BadInput, Temporary
from regraft.store import Store
from tests.worlds import Tiny


def bucket_of(url: str) -> str:
    return url.removeprefix("s3://").split("/")[0]


def test_a_missing_bucket_is_bad_input_whatever_is_asked(s3: str, tmp_path: Path) -> None:
    store = Store("s3://no-such-bucket-anywhere/prefix", "tiny")
    (tmp_path / "file").write_text("x")
    fields = {"step": "finetune", "identity": "abc0" * 16, "document": {}, "created_at": datetime.now(UTC)}
    for ask in (
        lambda: store.read("runs/r/validate.json"),
        lambda: store.create("ledger/00000001.json", b"1"),
        lambda: store.replace("runs/r/validate.json", b"1"),
        lambda: store.names("ledger"),
        lambda: store.manifest("finetune/" + "abc0" * 16),
        lambda: store.publish("finetune/" + "abc0" * 16, tmp_path, fields),
    ):
        with pytest.raises(BadInput, match="the bucket of the store does not exist") as raised:
            ask()
        assert raised.value.where == "s3://no-such-bucket-anywhere/prefix"
    assert len(boto3.client("s3").list_buckets(Prefix="no-such-bucket")["Buckets"]) == 0, "nor is it made on the way"


def test_a_server_that_is_away_is_temporary(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(s3, "tiny")
    for ask in (
        lambda: store.read("runs/r/validate.json"),
        lambda: store.create("ledger/00000001.json", b"1"),
        lambda: store.names("ledger"),
    ):
        with pytest.raises(Temporary) as raised:
            ask()
        assert "resumes" in str(raised.value.next)


def test_a_bucket_that_may_only_be_read_is_bad_input(s3: str) -> None:
    store = Store(s3, "tiny")
    store.create("ledger/00000001.json", b"1")
    statement = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    boto3.client("s3").put_bucket_policy(Bucket=bucket_of(s3), Policy=json.dumps(policy))
    for write in (store.create, store.replace):
        with pytest.raises(BadInput, match="the store refuses access"):
            write("ledger/00000002.json", b"2")
    assert store.read("ledger/00000001.json") == b"1"
    assert store.names("ledger") == ["00000001.json"]


@pytest.mark.slow
def test_a_step_runs_on_a_bucket_as_on_a_disk(s3: str, tiny_base: Path, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path, tiny_base)
    tiny.through("validate")
    local = tiny.result("validate")
    tiny.store = Store(s3, "tiny")
    tiny.through("validate")
    there = tiny.result("validate")
    assert there.identity == local.identity
    assert there.digest == local.digest
    assert tiny.pointer("validate")["cached"] is False
    tiny.through("validate")
    assert tiny.pointer("validate")["cached"] is True
    assert tiny.store.fetch(f"validate/{there.identity}", there, tmp_path / "fetched").exists()
