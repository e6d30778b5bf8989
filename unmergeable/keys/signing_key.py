"""Keys that sign for others to check: PEM files, as OpenSSL makes them.

The key of `keys.key` is a secret: anyone who could check something with it could forge it. Here the
private half signs and the public half checks. Ed25519, and ECDSA on the curves P-256, P-384 and
P-521 with the hash of the curve's size, as in OpenSSF Model Signing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from unmergeable.errors import KeyFileError, clip
from unmergeable.keys.key import read_key_file

Passphrase = str | Callable[[], str | None] | None
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_MAKE = "Make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"


@dataclass(frozen=True)
class PublicKey:
    """What signatures are checked with.

    Attributes:
        key: of cryptography.
    """

    key: Ed25519PublicKey | ec.EllipticCurvePublicKey

    @classmethod
    def load(cls, path: str | Path) -> PublicKey:
        """Reads a PEM file.

        Raises:
            KeyFileError: no such file, or no public key of a kind that is used here.
        """
        content = _read(path)
        try:
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError(
                f"{clip(path)} is no public key in PEM. Take it from the private one: "
                "openssl pkey -in FILE -pubout"
            ) from None
        if not isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey):
            raise _other_kind(path)
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _HASHES:
            raise _other_kind(path)
        return cls(key)

    @property
    def id(self) -> str:
        """SHA-256 of its PEM, in hexadecimal: how signatures name it."""
        pem = self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(pem).hexdigest()

    def checks(self, message: bytes, signature: bytes) -> bool:
        """Whether the private half signed a message."""
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(_HASHES[self.key.curve.name]))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key.

    Attributes:
        path: its file.
        passphrase: what the file is encrypted under, if it is.
        key: of cryptography.
    """

    path: Path
    passphrase: bytes | None = field(repr=False)
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: str | Path, passphrase: Passphrase = None) -> SigningKey:
        """Reads a PEM file.

        Args:
            path: the file.
            passphrase: needed if it is encrypted; a function is called only then.

        Raises:
            KeyFileError: no such file, encrypted without a passphrase or under another one, or no
                private key of a kind that is used here.
        """
        content, given = _read(path), None
        try:
            try:
                key = load_pem_private_key(content, None)
            except TypeError:  # it is encrypted
                text = passphrase() if callable(passphrase) else passphrase
                if not text:
                    raise KeyFileError(
                        f"{clip(path)} is encrypted. Give its passphrase: the command line asks "
                        "for it on a terminal, and reads UNMERGEABLE_PASSPHRASE elsewhere."
                    ) from None
                given = text.encode("utf-8", "surrogateescape")
                key = load_pem_private_key(content, given)
        except (ValueError, UnsupportedAlgorithm):
            if given:
                raise KeyFileError(f"the passphrase does not open {clip(path)}.") from None
            raise KeyFileError(f"{clip(path)} is no private key in PEM. {_MAKE}") from None
        if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
            raise _other_kind(path)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _HASHES:
            raise _other_kind(path)
        return cls(Path(path), given, key)

    @property
    def public(self) -> PublicKey:
        """The half that may be given away."""
        return PublicKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """A signature; ECDSA's are in DER."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.name]))


def _read(path: str | Path) -> bytes:
    shown = clip(path)
    try:
        return read_key_file(Path(path), shown)[0]
    except OSError as error:
        raise KeyFileError(f"cannot read the key {shown}: {error.strerror}.") from None
    except ValueError:  # too large, or a name that nothing can have
        raise KeyFileError(f"{shown} is no key in PEM. {_MAKE}") from None


def _other_kind(path: str | Path) -> KeyFileError:
    return KeyFileError(
        f"{clip(path)} is a key of another kind; used here are Ed25519, and ECDSA on P-256, P-384 "
        f"and P-521. {_MAKE}"
    )
