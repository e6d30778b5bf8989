"""A secret carried between processes that share no other secret.

The receiver makes a key pair for this one occasion and sends its public half; the sender answers
with a box that only the private half opens (HPKE, RFC 9180). So nobody who merely reads an object
store, a scheduler's records or a network learns it. It is no defence against anyone who runs code
in the receiver's place.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from unmergeable.errors import ClusterError

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_INFO = b"unmergeable secret"


class Receiver:
    """Who is to get a secret.

    Attributes:
        public: to be sent to anyone who has the secret.
    """

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def open(self, box: bytes) -> bytes:
        """The secret in a box that `seal` made for this receiver.

        Raises:
            ClusterError: a box for another one, or one that was changed.
        """
        try:
            return _SUITE.decrypt(box, self._private, _INFO)
        except (InvalidTag, ValueError):
            raise ClusterError("a secret came through the cluster damaged. Run again.") from None


def seal(secret: bytes, public: bytes) -> bytes:
    """Puts a secret into a box for the receiver of that public half."""
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public), _INFO)
