"""DSSE envelopes: bytes, and signatures of them, in one JSON file.

What is signed is the type and the bytes themselves (the pre-authentication encoding of the
specification, https://github.com/secure-systems-lab/dsse). They are kept as they are and never
written again from what they say. An envelope without signatures is read, too, and says so.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.small_files import json_of, read_json
from unmergeable.errors import InputError, clip
from unmergeable.keys.signing_key import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Envelope:
    """A statement as bytes, with its signatures.

    Attributes:
        payload: the bytes.
        signatures: of them; any number.
    """

    payload: bytes
    signatures: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Envelope:
        """Reads a file.

        Raises:
            InputError: it cannot be read, or is no envelope of a statement.
        """
        document = read_json(Path(path))
        try:
            if document["payloadType"] != PAYLOAD_TYPE:
                raise InputError(
                    f"{path} holds {clip(document['payloadType'])}, and not {PAYLOAD_TYPE}."
                )
            signatures = [_decoded(one["sig"]) for one in document["signatures"]]
            return cls(_decoded(document["payload"]), tuple(signatures))
        except (KeyError, TypeError, ValueError):  # binascii.Error is a ValueError
            raise InputError(f"{path} is damaged, or is no DSSE envelope.") from None

    def signed(self, key: SigningKey) -> bytes:
        """The file's content, with a signature by a key in place of all others."""
        return self._written([{"keyid": key.public.id, "sig": _encoded(key.sign(self._message))}])

    def unsigned(self) -> bytes:
        """The file's content, without a signature."""
        return self._written([])

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether one of the signatures is the key's."""
        return any(key.checks(self._message, signature) for signature in self.signatures)

    def statement(self, where: object) -> Any:
        """What the bytes say in JSON.

        Args:
            where: what errors call the file.

        Raises:
            InputError: no JSON.
        """
        return json_of(self.payload, where)

    def _written(self, signatures: list[dict[str, str]]) -> bytes:
        document = {
            "payloadType": PAYLOAD_TYPE,
            "payload": _encoded(self.payload),
            "signatures": signatures,
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    @property
    def _message(self) -> bytes:
        """What is signed."""
        kind = PAYLOAD_TYPE.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: Any) -> bytes:
    """Base64, in either alphabet, as the specification allows.

    Raises:
        TypeError: no text.
        ValueError: no base64.
    """
    if not isinstance(text, str):
        raise TypeError("base64 is text")
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
