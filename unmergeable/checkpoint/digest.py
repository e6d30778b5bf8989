"""A name for a model's weights that does not depend on how they are sharded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from unmergeable.checkpoint.header import TensorEntry


def weights_digest(entries: Mapping[str, TensorEntry], digests: Mapping[str, str]) -> str:
    """SHA-256 over every tensor's name, dtype, shape and own SHA-256, in order of the names.

    Args:
        entries: the tensors.
        digests: the SHA-256 of each tensor's bytes, hexadecimal.
    """
    whole = hashlib.sha256()
    for name in sorted(entries):
        entry = entries[name]
        shape = ",".join(map(str, entry.shape))
        whole.update(f"{name}\0{entry.dtype}\0{shape}\0{digests[name]}\n".encode())
    return whole.hexdigest()
