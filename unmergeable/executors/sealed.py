"""A secret carried between processes that share no other secret.

The receiver makes a key pair for this one occasion and sends its public half (X25519, RFC 7748);
the sender answers with a box that only the private half opens: HKDF-SHA256 over the agreed bytes
and both public halves gives a key, ChaCha20-Poly1305 seals. So what passes through an object store,
a scheduler's records or a network can be read by nobody who merely reads. It is no defence against
whoever runs code in the receiver's place.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unmergeable.errors import ClusterError

_PUBLIC = 32
_NONCE = bytes(12)  # each key seals one box


class Receiver:
    """Who is to get a secret.

    Attributes:
        public: to be sent to whoever has the secret.
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
            sender = X25519PublicKey.from_public_bytes(box[:_PUBLIC])
            key = _key(self._private.exchange(sender), box[:_PUBLIC], self.public)
            return ChaCha20Poly1305(key).decrypt(_NONCE, box[_PUBLIC:], None)
        except (InvalidTag, ValueError):
            raise ClusterError("a secret came through the cluster damaged. Run again.") from None


def seal(secret: bytes, public: bytes) -> bytes:
    """Puts a secret into a box for the receiver of that public half."""
    own = X25519PrivateKey.generate()
    shown = own.public_key().public_bytes_raw()
    key = _key(own.exchange(X25519PublicKey.from_public_bytes(public)), shown, public)
    return shown + ChaCha20Poly1305(key).encrypt(_NONCE, secret, None)


def _key(agreed: bytes, sender: bytes, receiver: bytes) -> bytes:
    info = b"unmergeable sealed secret v1" + sender + receiver
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(agreed)
