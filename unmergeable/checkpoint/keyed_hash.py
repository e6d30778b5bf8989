"""A hash of files that nobody can make, nor make fit, without the owner's key.

Only the owner asks whether published files are still those that were published: `unlock` does,
after the seal. So a keyed hash serves, which processors have instructions for;
`benchmarks/roofline.py` measures its rate.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from unmergeable.checkpoint.digest import Hash
from unmergeable.keys.key import Key

_INNER = 32
# Bytes at once: the library breaks down at 2 GB, and keeps other threads waiting meanwhile.
_STEP = 1 << 20


class KeyedHash:
    """GMAC of some bytes (NIST SP 800-38D), then HMAC-SHA256 of its tag, in hexadecimal.

    GMAC asks for another nonce for every message, lest two tags together tell its key. There is
    none here, as equal bytes must have equal hashes; nobody sees a tag either. What is left of GMAC
    is a universal hash: who does not know the key makes two messages of n bytes meet with a chance
    of n / 2**132 or so. A pseudo-random function of it is a code that authenticates any number of
    messages (Wegman and Carter 1981; hash-then-PRF).

    Args:
        secret: 64 bytes, for this and nothing else.
    """

    def __init__(self, secret: bytes) -> None:
        self._inner = Cipher(AES(secret[:_INNER]), GCM(bytes(12))).encryptor()
        self._outer = secret[_INNER:]

    def update(self, data: bytes | memoryview, /) -> None:
        """Takes the next piece."""
        view = memoryview(data)
        for start in range(0, view.nbytes, _STEP):
            self._inner.authenticate_additional_data(view[start : start + _STEP])

    def hexdigest(self) -> str:
        """Of all pieces so far; ends it."""
        self._inner.finalize()
        return hmac.digest(self._outer, self._inner.tag, "sha256").hex()


def published(key: Key) -> Callable[[], Hash]:
    """What the weights of a folder are hashed with that this key protects."""
    return partial(KeyedHash, key.derive("published weights", 64))
