"""Who may write to the bucket, manifests and ledger and all, is not believed where a key is configured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regraft import approval, signing
from regraft.cli import app
from regraft.digests import sha256
from regraft.errors import AlreadyExists, BadInput, Exit
from regraft.ledger import Ledger
from regraft.store import Store
from tests.worlds import RUN, Tiny


def key(folder: Path, name: str = "signing") -> tuple[Path, Path]:
    """A private key and its public one, made as the documents say."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    made = ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(private)]
    subprocess.run(made, check=True)
    shown = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(shown, check=True, capture_output=True)
    return private, public


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The keys that this process signs and verifies with."""
    private, public = key(tmp_path)
    monkeypatch.setenv(signing.SIGNING, str(private))
    monkeypatch.setenv(signing.VERIFYING, str(public))
    return private, public


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, keys: tuple[Path, Path]) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "store"), "tiny")
    return Store(str(request.getfixturevalue("s3")), "tiny")


def champion(store: Store, model: str) -> None:
    about = {"model": sha256(model), "run": RUN, "evaluation": sha256("evaluation")}
    ledger = Ledger(store)
    ledger.append(ledger.head(), kind="promote", version=1, reason="first", **about)


def raw(store: Store) -> Store:
    """The same store as whoever may write to the bucket has it: without a key."""
    other = Store(store.url, store.recipe)
    other.create = other._create  # type: ignore[method-assign]
    other.replace = other._write  # type: ignore[method-assign]
    other.read = other._bytes  # type: ignore[method-assign]
    return other


def changed(attacker: Store, at: str) -> None:
    attacker.replace(at, attacker.read(at).replace(b"first", b"best!"))


def elsewhere(attacker: Store, at: str) -> None:
    """Another recipe's entry, with its signature."""
    other = Store(attacker.url, "other")
    champion(other, "the attacker's, who may write that recipe")
    entry = raw(other).read(at)
    attacker.replace(at, entry)
    attacker.replace(attacker._signature(at, entry), raw(other).read(other._signature(at, entry)))


def by_another_key(attacker: Store, at: str) -> None:
    forged = attacker.read(at).replace(b"first", b"best!")
    attacker.replace(at, forged)
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(signing.os.environ[signing.SIGNING]).parent
        private, public = key(folder, "another")
        patch.setenv(signing.SIGNING, str(private))
        patch.setenv(signing.VERIFYING, str(public))
        attacker._sign(at, forged)


def with_the_signature_of_what_was_there(attacker: Store, at: str) -> None:
    entry = attacker.read(at)
    forged = entry.replace(b"first", b"best!")
    attacker.replace(attacker._signature(at, forged), attacker.read(attacker._signature(at, entry)))
    attacker.replace(at, forged)


def with_nonsense(attacker: Store, at: str) -> None:
    forged = attacker.read(at).replace(b"first", b"best!")
    attacker.replace(at, forged)
    attacker.replace(attacker._signature(at, forged), b'{"dsseEnvelope": [[]]}')


ATTACKS = [changed, elsewhere, by_another_key, with_the_signature_of_what_was_there, with_nonsense]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.__name__ for attack in ATTACKS])
def test_a_ledger_that_somebody_else_wrote_to_makes_no_champion(
    store: Store, attack: Callable[[Store, str], None]
) -> None:
    champion(store, "the judged one")
    assert Ledger(store).head()
    attack(raw(store), "ledger/00000001.json")
    with pytest.raises(BadInput, match="is not signed") as refused:
        Ledger(store).head()
    assert refused.value.where == store.where("ledger/00000001.json")
    assert "regraft sign tiny" in str(refused.value.next)


def test_an_index_that_somebody_else_wrote_is_not_read(store: Store) -> None:
    champion(store, "one")
    raw(store).replace("ledger/index.json", b"[]")
    head = Ledger(store).head()
    assert head
    assert head.model == sha256("one")


def test_an_approval_that_somebody_else_wrote_approves_nothing(store: Store) -> None:
    about = {"model": sha256("model"), "evaluation": sha256("evaluation")}
    approval.approve(raw(store), run=RUN, who="the attacker", **about)
    with pytest.raises(BadInput, match="is not signed"):
        approval.of(store, **about)


def test_of_two_writers_the_one_that_lost_leaves_no_signature(store: Store) -> None:
    store.create("ledger/00000001.json", b"the winner's")
    with pytest.raises(AlreadyExists):
        store.create("ledger/00000001.json", b"the loser's")
    with pytest.raises(AlreadyExists):
        store.create("ledger/00000001.json", b"the winner's")  # of equals both may have signed it
    assert store.read("ledger/00000001.json") == b"the winner's"
    raw(store).replace("ledger/00000001.json", b"the loser's")
    with pytest.raises(BadInput, match="is not signed"):
        store.read("ledger/00000001.json")


def test_a_name_that_leads_out_is_laid_out_nowhere_to_be_signed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.signing.sign", lambda place, _: pytest.fail(f"{place} was about to be written"))
    for write in (store.create, store.replace):
        with pytest.raises(BadInput):
            write("runs/../../../../out.json", b"{}")


def test_who_may_only_verify_reads_and_does_not_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("ledger/00000001.json", b"{}")
    monkeypatch.delenv(signing.SIGNING)
    assert store.read("ledger/00000001.json") == b"{}"
    with pytest.raises(BadInput, match="no key to sign with"):
        store.create("ledger/00000002.json", b"{}")
    assert store.names("ledger") == ["00000001.json"]


def test_a_key_may_be_given_as_text_as_a_secret_is(
    store: Store, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("ledger/00000001.json", b"{}")
    monkeypatch.setenv(signing.SIGNING, keys[0].read_text())
    monkeypatch.setenv(signing.VERIFYING, keys[1].read_text())
    assert store.read("ledger/00000001.json") == b"{}"
    store.create("ledger/00000002.json", b"{}")
    monkeypatch.delenv(signing.VERIFYING)  # who signs has the public key as well
    assert store.read("ledger/00000002.json") == b"{}"


def test_a_signature_is_one_that_the_tool_of_openssf_knows(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    store = Store(str(tmp_path / "store"), "tiny")
    store.create("ledger/00000001.json", b"{}")
    (tmp_path / "look" / "tiny" / "ledger").mkdir(parents=True)
    (tmp_path / "look" / "tiny" / "ledger" / "00000001.json").write_bytes(b"{}")
    signature = store.path(store._signature("ledger/00000001.json", b"{}"))
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(tmp_path / "look")]
    done = subprocess.run(
        [*command, "--signature", signature, "--public_key", str(keys[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr


@pytest.mark.parametrize("name", [signing.SIGNING, signing.VERIFYING])
@pytest.mark.parametrize("value", ["/no/such/file", "-----BEGIN EC PRIVATE KEY-----\nhunter2", "RSA", "secp256k1"])
def test_what_is_no_key_is_one_clear_error_without_the_key(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value in ("RSA", "secp256k1"):
        made = ["genrsa", "2048"] if value == "RSA" else ["ecparam", "-genkey", "-noout", "-name", value]
        text = subprocess.run(["openssl", *made], check=True, capture_output=True, text=True).stdout
        if name == signing.VERIFYING:
            shown = ["openssl", "rsa" if value == "RSA" else "ec", "-pubout"]
            text = subprocess.run(shown, input=text, check=True, capture_output=True, text=True).stdout
        value = text
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as refused:
        signing.check()
    assert refused.value.where == name
    assert "openssl" in str(refused.value.next)
    assert "hunter2" not in str(refused.value)


@pytest.mark.slow
def test_a_run_reads_nothing_that_is_not_signed_and_signs_what_it_writes(tiny: Tiny, keys: tuple[Path, Path]) -> None:
    code, said = tiny.step("promote")
    assert code == Exit.BAD_INPUT, said
    assert "is not signed" in said
    done = CliRunner().invoke(app, ["sign", "tiny", "--store", tiny.store.url, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["signed"] > 3
    tiny.through("promote")
    assert tiny.step("promote")[0] == 0, "and again, from what is there"

    attacker, at = raw(tiny.store), f"evaluate/{tiny.pointer('evaluate')['identity']}/manifest.json"
    attacker.replace(at, attacker.read(at).replace(b'"refused": null', b'"refused": ""'))
    code, said = tiny.step("promote")
    assert code == Exit.BAD_INPUT, said
    assert f"{tiny.store.where(at)}: is not signed" in said
