"""The owner's secret, its file, and what is derived from it.

A key file is a small JSON document with mode 0600:

    {"format": "unmergeable-key", "version": 1, "id": "...", "secret": "base64 of 32 bytes"}

or, under a passphrase, with `secret` replaced by `sealed`: scrypt makes a key from the passphrase
(n = 2^17, r = 8, p = 1, in 128 MiB: what OWASP recommends; a file notes its own cost, and is read
if that is within bounds), ChaCha20-Poly1305 seals the 32 bytes. The id is derived from the secret
one way; it stands in the manifests of the models that the key protects.

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
import stat
import warnings
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

from unmergeable.errors import InputError, KeyFileError, clip, quoted
from unmergeable.gauge.randomness import Randomness

FORMAT = "unmergeable-key"
VERSION = 1
SECRET_BYTES = 32
_SCRYPT = {"n": 1 << 17, "r": 8, "p": 1}
# What a file may ask of scrypt: 256 MiB, and four times the work of the default.
_MAX_BLOCKS = 1 << 21
_MAX_WORK = 1 << 22
_MAX_FILE = 1 << 16
_OPEN_FILES = Path("/proc/self/fd")
_NO_MEMORY = "scrypt needs more memory than there is (128 MiB by default)."


class ExposedKeyWarning(UserWarning):
    """A key file that others than its owner may read or change."""


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes.

    Attributes:
        secret: the bytes; never printed.

    Examples:
        >>> key = unmergeable.Key.generate()
        >>> len(key.id)
        16
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

        Anyone who knows one model in both its open and its locked form has that lock. With a salt
        of its own he has no other one.

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
        InputError: the file exists, or its folder does not; an empty passphrase.

    Examples:
        >>> key = unmergeable.keygen("new.key")
        >>> unmergeable.load_key("new.key") == key
        True
    """
    if passphrase == "":
        raise InputError("the passphrase is empty, which protects nothing. Give another, or none.")
    shown = clip(path)
    key = Key.generate()
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "id": key.id}
    try:
        if passphrase is None:
            document["secret"] = base64.b64encode(key.secret).decode()
        else:
            document["sealed"] = _sealed(key, passphrase)
        write_new(Path(path), (json.dumps(document, indent=2) + "\n").encode())
    except FileExistsError:
        raise InputError(
            f"{shown} exists, and losing a key loses every model locked with it. Choose another "
            "name, or move that file away yourself."
        ) from None
    except MemoryError:
        raise InputError(f"cannot seal {shown}: {_NO_MEMORY}") from None
    except UnicodeEncodeError:
        raise InputError(f"cannot seal {shown}: the passphrase is not text.") from None
    except ValueError:  # a null byte
        raise InputError(f"cannot write the key {shown}: no file has such a name.") from None
    except OSError as error:
        raise InputError(f"cannot write the key {shown}: {error.strerror}.") from None
    return key


def load_key(path: str | Path, passphrase: str | Callable[[], str | None] | None = None) -> Key:
    """Reads a key file.

    Args:
        path: as written by `keygen`.
        passphrase: needed if the file is sealed; a function is called only then.

    Warns:
        ExposedKeyWarning: others than the file's owner may read or change it.

    Raises:
        KeyFileError: no such file, damaged, sealed without a passphrase, or the wrong passphrase.

    Examples:
        >>> unmergeable.load_key("owner.key")
        Key()
    """
    shown = clip(path)
    try:
        content, mode = read_key_file(Path(path), shown)
        document = json.loads(content.decode())
    except OSError as error:
        raise KeyFileError(f"cannot read the key {shown}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise KeyFileError(f"{shown} is not a key file: it is not JSON.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise KeyFileError(f"{shown} is not a key file: make one with `unmergeable keygen`.")
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise KeyFileError(
            f"{shown} has key version {quoted(version)}; this release reads {VERSION}."
        )
    try:
        if "sealed" in document:
            given = passphrase() if callable(passphrase) else passphrase
            secret = _open_sealed(shown, document, given)
        else:
            secret = base64.b64decode(document["secret"], validate=True)
        key = Key(secret)
    except (KeyError, TypeError, ValueError):  # binascii.Error is a ValueError
        raise KeyFileError(f"{shown} is damaged. Restore it from a backup.") from None
    if key.id != document.get("id"):
        raise KeyFileError(f"{shown} is damaged: its secret does not match its id.")
    if mode & 0o077:
        warnings.warn(
            f"the key {shown} is not its owner's alone (mode {mode:04o}). Run: chmod 600 {shown}",
            ExposedKeyWarning,
            stacklevel=2,
        )
    return key


def _sealed(key: Key, passphrase: str) -> dict[str, Any]:
    """A key's secret under a passphrase, as a key file holds it."""
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    seal = ChaCha20Poly1305(_stretch(passphrase, salt, _SCRYPT))
    box = seal.encrypt(nonce, key.secret, key.id.encode())
    encoded = {"salt": salt, "nonce": nonce, "box": box}
    return {"scrypt": _SCRYPT} | {k: base64.b64encode(v).decode() for k, v in encoded.items()}


def _open_sealed(shown: str, document: dict[str, Any], passphrase: str | None) -> bytes:
    if passphrase is None:
        raise KeyFileError(
            f"{shown} is sealed. Give its passphrase: the command line asks for it on a terminal, "
            "and reads UNMERGEABLE_PASSPHRASE elsewhere."
        )
    sealed = {name: document["sealed"][name] for name in ("salt", "nonce", "box")}
    salt, nonce, box = (base64.b64decode(text, validate=True) for text in sealed.values())
    about = str(document["id"]).encode()
    try:
        seal = ChaCha20Poly1305(_stretch(passphrase, salt, document["sealed"]["scrypt"]))
        return seal.decrypt(nonce, box, about)
    except (InvalidTag, UnicodeEncodeError):
        raise KeyFileError(f"the passphrase does not open {shown}.") from None
    except MemoryError:
        raise KeyFileError(f"cannot open {shown}: {_NO_MEMORY}") from None


def _stretch(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    """A 32-byte key from a passphrase; the cost, from a file, is bounded in memory and in time.

    Raises:
        ValueError: a cost out of bounds.
        TypeError: what is no cost.
        MemoryError: less memory than it takes.
    """
    if not isinstance(cost, dict) or cost.keys() != _SCRYPT.keys():
        raise TypeError("not a scrypt cost")
    if any(type(value) is not int for value in cost.values()):
        raise TypeError("not a scrypt cost")
    n, r, p = (cost[name] for name in ("n", "r", "p"))
    if min(n - 1, r, p) < 1 or n & (n - 1):
        raise ValueError("not a scrypt cost")
    if n * r > _MAX_BLOCKS or n * r * p > _MAX_WORK:
        raise ValueError("scrypt cost out of bounds")
    # Bytes of the environment that are not UTF-8 arrive as lone surrogates.
    given = passphrase.encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(given)


def write_new(path: Path, content: bytes) -> None:
    """Makes a file that only its owner can read, complete or not at all.

    It gets its name once its content is on the disk, so that a run that is killed leaves nothing.
    A file system that cannot do so writes it in place, and a failure removes it.

    Raises:
        FileExistsError: something has that name.
        ValueError: nothing can have it.
        OSError: as the operating system says.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = _nameless(path.parent)
        named = descriptor is None
        if descriptor is None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                if not named:
                    os.link(f"{_OPEN_FILES}/{descriptor}", path, src_dir_fd=folder)
                    named = True
            os.fsync(folder)
        except BaseException:
            if named:
                path.unlink()
            raise
    finally:
        os.close(folder)


def _nameless(folder: Path) -> int | None:
    """A new file without a name; None if the system has no such files."""
    if not (hasattr(os, "O_TMPFILE") and _OPEN_FILES.is_dir()):
        return None
    try:
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600)
    except OSError:
        return None


def read_key_file(path: Path, shown: str) -> tuple[bytes, int]:
    """The content and the permissions of a regular file; pipes and devices are not waited for.

    Raises:
        OSError: as the operating system says.
        ValueError: a file too large for a key, or a name that nothing can have.
        KeyFileError: not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"cannot read the key {shown}: it is not a regular file.")
        if status.st_size > _MAX_FILE:
            raise ValueError("too large")
        content = os.read(descriptor, _MAX_FILE)
    finally:
        os.close(descriptor)
    return content, stat.S_IMODE(status.st_mode)


def is_key_file(content: bytes) -> bool:
    """Whether bytes hold a key file of ours, sealed or not, alone or inside something else."""
    if FORMAT.encode() in content and (b"secret" in content or b"sealed" in content):
        return True
    return b'"box' in content and re.search(rb'"scrypt\\?"\s*:\s*\{', content) is not None
