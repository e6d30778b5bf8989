"""Signatures of folders that anyone can check: OpenSSF Model Signing v1.0.

`model.sig`, in the folder itself, is a Sigstore bundle with the SHA-256 digest of every file. It is
made and checked by the package model-signing, which this module alone imports; the program of that
package checks it as well, and makes others, of certificates and of Sigstore's identities.

Not signed are the signature itself, Git's own files, and what `hf download` notes in `.cache`. A
file that is changed, removed or added otherwise is found.
"""

from __future__ import annotations

import base64
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from unmergeable.checkpoint.companions import SIGNATURE
from unmergeable.checkpoint.file_comparison import FileComparison
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.small_files import is_there, read_json, write_over
from unmergeable.errors import InputError, KeyFileError, one_line
from unmergeable.extras import optional
from unmergeable.keys.signing_key import Passphrase, PublicKey, SigningKey

_DOWNLOADS = ".cache"
_OTHER_KEY = f"{SIGNATURE} was not made with its private half, or was changed"


@dataclass(frozen=True)
class SignatureReport:
    """What is known of a folder's signature.

    Attributes:
        signature: its file.
        key: SHA-256 of the public key.
        reason: why the folder is not what was signed with that key; empty if it is.
        files: those that are not what was signed.

    Examples:
        >>> report = unmergeable.sign("locked", "signing.pem")
        >>> report.signature.name, report.valid
        ('model.sig', True)
    """

    signature: Path
    key: str
    reason: str = ""
    files: FileComparison = field(default_factory=lambda: FileComparison(0))

    @property
    def valid(self) -> bool:
        """Whether the folder is what was signed."""
        return not self.reason


class Signer:
    """Signs folders with a private key; whatever is wrong with the key is said at once.

    Args:
        private_key: a PEM file, ECDSA on P-256, P-384 or P-521.
        passphrase: needed if it is encrypted; a function is called only then.

    Raises:
        KeyFileError: no such key, or an Ed25519 key, which Model Signing does not know.
        MissingExtraError: model-signing is not installed.
    """

    def __init__(self, private_key: str | Path, passphrase: Passphrase = None) -> None:
        self._key = SigningKey.load(private_key, passphrase)
        if not isinstance(self._key.key, EllipticCurvePrivateKey):
            raise KeyFileError(
                f"{private_key} is an Ed25519 key, and Model Signing takes ECDSA keys. Make one: "
                "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"
            )
        self._library = optional("model_signing.signing")

    def sign(self, folder: str | Path) -> SignatureReport:
        """Signs all files of a folder, in place of an earlier signature.

        Raises:
            InputError: no folder, one that holds the private key, or something in it that is no
                file.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{folder} is not a folder on this machine.")
        if self._key.path.resolve().is_relative_to(root.resolve()):
            raise InputError(
                f"{self._key.path} is the private key, and lies in the folder that is signed to be "
                "published. Move it away."
            )
        config = self._library.Config().use_elliptic_key_signer(
            private_key=self._key.path, password=self._key.passphrase
        )
        config.set_hashing_config(_hashing(links=False))
        with TemporaryDirectory() as there:
            made = Path(there) / SIGNATURE
            try:
                config.sign(root, made)
            except (ValueError, OSError) as error:
                raise InputError(f"{folder} cannot be signed: {error}") from None
            try:
                write_over(root / SIGNATURE, made.read_bytes())
            except OSError as error:
                raise InputError(f"cannot write into {folder}: {error.strerror}.") from None
        return SignatureReport(root / SIGNATURE, self._key.public.id)


def sign(
    folder: str | Path, private_key: str | Path, passphrase: Passphrase = None
) -> SignatureReport:
    """Signs all files of a folder, so that anyone with the public key can check them.

    Args:
        folder: any model folder on this machine; `model.sig` is written into it.
        private_key: a PEM file, ECDSA on P-256, P-384 or P-521.
        passphrase: needed if the key is encrypted; a function is called only then.

    Raises:
        UnmergeableError: as `Signer` and `Signer.sign`.

    Examples:
        >>> unmergeable.sign("locked", "signing.pem").signature.name
        'model.sig'
    """
    return Signer(private_key, passphrase).sign(folder)


def verify_signature(folder: str | Path, public_key: str | Path) -> SignatureReport:
    """Checks that a folder's files are those that were signed, no more and no fewer.

    Args:
        folder: a folder with `model.sig` in it, or the id of one on the Hub.
        public_key: the signer's, a PEM file from a source that you trust.

    Raises:
        InputError: no signature, or one that is damaged or of another kind.
        KeyFileError: no public key.
        MissingExtraError: model-signing is not installed.

    Examples:
        >>> report = unmergeable.sign("locked", "signing.pem")
        >>> unmergeable.verify_signature("locked", "signing.pub").valid
        True
    """
    key = PublicKey.load(public_key)
    library = optional("model_signing.verifying")
    root = resolve(folder)
    path = root / SIGNATURE
    if not is_there(path):
        raise InputError(f"{folder} has no {SIGNATURE}: it is not signed, or the file was lost.")
    bundle = read_json(path)
    try:
        if not isinstance(bundle["dsseEnvelope"]["signatures"][0]["sig"], str):
            raise TypeError("a signature is text")
        config = library.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(links=True))  # a download of the Hub's is links
        with redirect_stdout(sys.stderr):  # the library prints warnings
            config.verify(root, path)
    except InvalidSignature:
        return SignatureReport(path, key.id, _OTHER_KEY)
    except ValueError as error:
        if str(error).startswith("Key mismatch"):
            return SignatureReport(path, key.id, _OTHER_KEY)
        if not str(error).startswith("Signature mismatch"):
            return SignatureReport(path, key.id, one_line(error))
        reason = "its files are not those that were signed"
        return SignatureReport(path, key.id, reason, _differences(root, bundle))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged, or was not made with a key of its own: the program model_signing "
            "checks signatures of certificates and of Sigstore's identities."
        ) from None
    return SignatureReport(path, key.id)


def _differences(root: Path, bundle: Any) -> FileComparison:
    """Which files of a folder are not what was signed, once the signature itself was checked."""
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    content = statement["predicate"]
    signed = {one["name"]: one["digest"] for one in content["resources"]}
    config = _hashing(links=True)
    ignored = content["serialization"].get("ignore_paths", [])
    config.add_ignored_paths(model_path=root, paths=ignored)
    found = {
        one.identifier: one.digest.digest_hex for one in config.hash(root).resource_descriptors()
    }
    return FileComparison(
        len(signed),
        tuple(sorted(n for n in signed.keys() & found.keys() if signed[n] != found[n])),
        tuple(sorted(signed.keys() - found.keys())),
        tuple(sorted(found.keys() - signed.keys())),
    )


def _hashing(*, links: bool) -> Any:
    """SHA-256 of each file, but for the signature and what downloads leave."""
    config = optional("model_signing.hashing").Config()
    config.set_ignored_paths(paths=[SIGNATURE, _DOWNLOADS])
    return config.set_allow_symlinks(links)
