"""Signatures on what a store holds, in the format of OpenSSF Model Signing: who may write to a bucket is not believed.

Whoever writes has the private key, by REGRAFT_SIGNING_KEY; who only reads may have the public one alone, by
REGRAFT_VERIFYING_KEY. With either nothing is read that is not signed; with neither nothing is signed and nothing asked.
A signature is of one object at its one place, and lies in a file of its own, named by the digest of both: it is written
before the object, so that none is ever without, and what an object says does not change by it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from regraft.errors import BadInput

SIGNING, VERIFYING = "REGRAFT_SIGNING_KEY", "REGRAFT_VERIFYING_KEY"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
EXAMPLE = f"openssl ecparam -genkey -name prime256v1 -noout -out signing.pem; export {SIGNING}=signing.pem"
_PUBLIC = f"openssl ec -in signing.pem -pubout -out verifying.pem; export {VERIFYING}=verifying.pem"


def configured() -> bool:
    """Whether what is written is signed."""
    return bool(os.environ.get(SIGNING))


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is read has to be signed."""
    return bool(environment.get(SIGNING) or environment.get(VERIFYING))


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Reads the keys that are configured. Raises BadInput."""
    for name in (SIGNING, VERIFYING):
        if value := environment.get(name):
            _public(name, _pem(name, value))


def digest(place: str, content: bytes) -> str:
    """What the signature of an object at a place is named by."""
    return hashlib.sha256(place.encode() + b"\0" + content).hexdigest()


def sign(place: str, content: bytes) -> bytes | None:
    """The signature of an object at a place; None where nothing is signed.

    Raises:
        BadInput: there is a key to verify with and none to sign with, or what is configured is no key.
    """
    if not configured():
        if wanted():
            raise BadInput(
                f"there is no key to sign with, and with {VERIFYING} nothing is read that is not signed",
                where=SIGNING,
                state=f"{place} was not written",
                next=f"export {SIGNING}=FILE, the private key that belongs to {VERIFYING}",
            )
        return None
    from model_signing import signing

    key = _pem(SIGNING, os.environ[SIGNING])
    _public(SIGNING, key)
    with _laid_out(place, content) as (folder, signature):
        with _named(key) as private:
            config = signing.Config().use_elliptic_key_signer(private_key=private)
        config.sign(folder, signature)
        return signature.read_bytes()


def verified(place: str, content: bytes, signature: bytes) -> bool:
    """Whether a signature is that of an object at a place, by the key that is configured. Raises BadInput."""
    from model_signing import verifying

    name = VERIFYING if os.environ.get(VERIFYING) else SIGNING
    with _laid_out(place, content) as (folder, file), _named(_public(name, _pem(name, os.environ[name]))) as public:
        file.write_bytes(signature)
        config = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            config.verify(folder, file)
        except Exception:  # the library raises what its parts do: of JSON, of base64, of cryptography
            return False
    return True


@contextmanager
def _laid_out(place: str, content: bytes) -> Iterator[tuple[Path, Path]]:
    """The object as the library takes it, a file in a folder, and where its signature is to lie."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "store")
        file = folder / place
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        yield folder, Path(scratch, "signature")


@contextmanager
def _named(pem: bytes) -> Iterator[str]:
    """A key as the library takes it, by the name of a file, without its being on a disk. It can be read once."""
    reading, writing = os.pipe()
    try:
        os.write(writing, pem)  # a pipe holds some 64 KiB, a key has less than one
        os.close(writing)
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _pem(name: str, value: str) -> bytes:
    """The key of a variable: its text, or that of the file it names."""
    if value.lstrip().startswith("-----BEGIN"):
        return value.strip().encode() + b"\n"
    try:
        return Path(value).read_bytes()[:10_000]
    except OSError as error:
        raise _wrong(name, f"cannot be read: {error.strerror}") from error


@lru_cache
def _public(name: str, pem: bytes) -> bytes:
    """The public key of a key, which is private where it is for signing. Raises BadInput."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        if name == SIGNING:
            key = serialization.load_pem_private_key(pem, password=None).public_key()
        else:
            key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError):
        raise _wrong(name, "is no key in PEM without a password") from None  # what it says may be part of the key
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _wrong(name, f"is of no elliptic curve that signs, such as {CURVES[0]}")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _wrong(name: str, what: str) -> BadInput:
    kind, mend = ("private", EXAMPLE) if name == SIGNING else ("public", _PUBLIC)
    return BadInput(f"the {kind} key {what}", where=name, next=mend)
