"""Digests of weights, made of a hash of each tensor's bytes.

Tensor by tensor, so that they are had in any order and on any number of threads while a model is
rewritten. Published weights are hashed with `keyed_hash`: anybody may have changed them since.
Weights that come out of a lock are compared with those that went into it after published files and
seal were found intact, so that nobody is left to deceive, and what is to be found is a mistake of a
program or of a machine. XXH3 of 128 bits finds those; it takes next to nothing. See
`benchmarks/copy_speed.py`, part hash, for what both cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from xxhash import xxh3_128

from unmergeable.checkpoint.header import Header, TensorEntry, read_header
from unmergeable.checkpoint.source import open_source


class Hash(Protocol):
    """A hash of bytes that come piece after piece."""

    def update(self, data: memoryview, /) -> object:
        """Takes the next piece."""

    def hexdigest(self) -> str:
        """Of all pieces so far."""


# For what only accidents can have changed.
CHECKSUM: Callable[[], Hash] = xxh3_128


def digest_of(content: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return sha256(content).hexdigest()


def checksum_of(content: memoryview) -> str:
    """`CHECKSUM` of bytes, in hexadecimal."""
    hasher = CHECKSUM()
    hasher.update(content)
    return hasher.hexdigest()


def weights_digest(entries: Mapping[str, TensorEntry], digests: Mapping[str, str]) -> str:
    """SHA-256 over every tensor's name, dtype, shape and own digest, in order of the names.

    It does not depend on how the weights are sharded.

    Args:
        entries: the tensors.
        digests: the hash of each tensor's bytes, whichever.
    """
    whole = sha256()
    for name in sorted(entries):
        entry = entries[name]
        shape = ",".join(map(str, entry.shape))
        whole.update(f"{name}\0{entry.dtype}\0{shape}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def shard_digest(header: Header, digests: Mapping[str, str]) -> str:
    """SHA-256 over a weight file's header, and its tensors' digests in the order of their bytes.

    Args:
        header: the file's.
        digests: the digest of each tensor's bytes.
    """
    whole = sha256(header.raw)
    for entry in header.tensors:
        whole.update(f"{digests[entry.name]}\n".encode())
    return whole.hexdigest()


def file_digest(path: Path, hashing: Callable[[], Hash]) -> str:
    """What a manifest says of a file: its digest, or its digest as a shard.

    Args:
        path: the file.
        hashing: makes the hash for a tensor.

    Raises:
        InputError: a weight file that is damaged.
    """
    if path.suffix != ".safetensors":
        return digest_of(path.read_bytes())
    header, source = read_header(path), open_source(path)
    digests = {}
    try:
        for entry in header.tensors:
            hasher = hashing()
            source.read(entry, hasher.update)
            digests[entry.name] = hasher.hexdigest()
        return shard_digest(header, digests)
    finally:
        source.close()
