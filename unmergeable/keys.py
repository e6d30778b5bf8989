"""The owner's secret, its file, and what is derived from it.

A key file is a small JSON document with mode 0600:

    {"format": "unmergeable-key", "version": 1, "id": "...", "secret": "base64 of 32 bytes"}

or, under a passphrase, with `secret` replaced by `sealed`: scrypt makes a key from the passphrase,
ChaCha20-Poly1305 seals the 32 bytes. The id is derived from the secret one way; it stands in the
manifests of the models that the key protects.

Every lock draws from a key of its own, derived from the secret and a public salt. Every random
choice of a lock comes from its own stream: HKDF-SHA256 with the choice's name as info gives a
32-byte key, and ChaCha20 in counter mode gives the bytes (RFC 5869, RFC 8439). Streams of different
names are independent, so that a part of a lock can be drawn without the rest.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESSIV, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unmergeable.errors import InputError, KeyFileError
from unmergeable.gauge.randomness import Randomness

FORMAT = "unmergeable-key"
VERSION = 1
SECRET_BYTES = 32
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes.

    Attributes:
        secret: the bytes; never printed.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise KeyFileError(f"a key has {SECRET_BYTES} bytes, this one {len(self.secret)}.")

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's randomness."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @property
    def id(self) -> str:
        """The public name of the key, 16 hexadecimal digits; the secret cannot be had from it."""
        return self.derive("key id", 8).hex()

    def derive(self, name: str, size: int = 32) -> bytes:
        """Bytes that are independent for every name (HKDF-SHA256)."""
        info = f"unmergeable v{VERSION}/{name}".encode()
        return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(self.secret)

    def randomness(self, name: str) -> Randomness:
        """The stream of draws of that name (ChaCha20, counter from 0)."""
        cipher = Cipher(algorithms.ChaCha20(self.derive(name), bytes(16)), mode=None)
        stream = cipher.encryptor()
        return Randomness(lambda count: stream.update(bytes(count)))

    def salted(self, salt: str) -> Key:
        """The key that one lock draws from: independent for every salt, which is public.

        Whoever knows one model in both its open and its locked form has that lock. With a salt of
        its own he has no other one.

        Args:
            salt: as the lock's `Link` has it; "" is for locks made before there were salts.
        """
        return Key(self.derive(f"salt/{salt}")) if salt else self

    def encrypt(self, name: str, secret: bytes) -> str:
        """A secret that may be published: base64, the same every time (AES-SIV, RFC 5297).

        Args:
            name: what it is, so that one secret cannot take another's place.
            secret: the bytes.
        """
        box = AESSIV(self.derive("secrets", 64)).encrypt(secret, [name.encode()])
        return base64.b64encode(box).decode()

    def decrypt(self, name: str, box: str) -> bytes:
        """What `encrypt` was given.

        Raises:
            KeyFileError: another key or name, or a box that was changed.
        """
        try:
            sealed = base64.b64decode(box, validate=True)
            return AESSIV(self.derive("secrets", 64)).decrypt(sealed, [name.encode()])
        except (InvalidTag, ValueError):
            raise KeyFileError(
                f"the secret {name!r} does not open with the key {self.id}."
            ) from None


def keygen(path: str | Path, passphrase: str | None = None) -> Key:
    """Makes a new key and writes it to a file that only its owner can read.

    Args:
        path: where; an existing file is never overwritten.
        passphrase: seals the secret in the file.

    Raises:
        InputError: the file exists, or its folder does not.
    """
    path = Path(path)
    key = Key.generate()
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "id": key.id}
    if passphrase is None:
        document["secret"] = base64.b64encode(key.secret).decode()
    else:
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        seal = ChaCha20Poly1305(_stretch(passphrase, salt, _SCRYPT))
        document["sealed"] = {
            "scrypt": _SCRYPT,
            "salt": base64.b64encode(salt).decode(),
            "nonce": base64.b64encode(nonce).decode(),
            "box": base64.b64encode(seal.encrypt(nonce, key.secret, key.id.encode())).decode(),
        }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(
            f"{path} exists, and losing a key loses every model locked with it. Choose another "
            "name, or move that file away yourself."
        ) from None
    except OSError as error:
        raise InputError(f"cannot write the key {path}: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(json.dumps(document, indent=2) + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise InputError(f"cannot write the key {path}: {error.strerror}.") from None
    return key


def load_key(path: str | Path, passphrase: str | Callable[[], str | None] | None = None) -> Key:
    """Reads a key file.

    Args:
        path: as written by `keygen`.
        passphrase: needed if the file is sealed; a function is called only then.

    Raises:
        KeyFileError: no such file, damaged, sealed without a passphrase, or the wrong passphrase.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise KeyFileError(f"{path} is not a key file: it is not JSON.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise KeyFileError(f"{path} is not a key file: make one with `unmergeable keygen`.")
    if document.get("version") != VERSION:
        raise KeyFileError(
            f"{path} has key version {document.get('version')!r}; this release reads {VERSION}."
        )
    try:
        if "sealed" in document:
            given = passphrase() if callable(passphrase) else passphrase
            secret = _open_sealed(path, document, given)
        else:
            secret = base64.b64decode(document["secret"], validate=True)
        key = Key(secret)
    except (KeyError, TypeError, ValueError, OverflowError):  # binascii.Error is a ValueError
        raise KeyFileError(f"{path} is damaged. Restore it from a backup.") from None
    if key.id != document.get("id"):
        raise KeyFileError(f"{path} is damaged: its secret does not match its id.")
    return key


def _open_sealed(path: Path, document: dict[str, Any], passphrase: str | None) -> bytes:
    if passphrase is None:
        raise KeyFileError(
            f"{path} is sealed. Give its passphrase: the command line asks for it on a terminal, "
            "and reads UNMERGEABLE_PASSPHRASE elsewhere."
        )
    sealed = {name: document["sealed"][name] for name in ("salt", "nonce", "box")}
    salt, nonce, box = (base64.b64decode(text, validate=True) for text in sealed.values())
    try:
        seal = ChaCha20Poly1305(_stretch(passphrase, salt, document["sealed"]["scrypt"]))
        return seal.decrypt(nonce, box, str(document["id"]).encode())
    except InvalidTag:
        raise KeyFileError(f"the passphrase does not open {path}.") from None


def _stretch(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    """A 32-byte key from a passphrase; the cost, from a file, is bounded (1 GB of memory)."""
    if not (cost["n"] * cost["r"] <= 1 << 23 and cost["p"] <= 16):
        raise ValueError("scrypt cost out of range")
    return Scrypt(salt=salt, length=32, **cost).derive(passphrase.encode())


def is_key_file(content: bytes) -> bool:
    """Whether bytes hold a key file of ours, sealed or not, alone or inside something else."""
    if FORMAT.encode() in content and (b"secret" in content or b"sealed" in content):
        return True
    return b'"box' in content and re.search(rb'"scrypt\\?"\s*:\s*\{', content) is not None
