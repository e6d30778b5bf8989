"""Digests of weights, made of the BLAKE3 digest of each tensor's bytes.

Tensor by tensor, so that they are had in any order and on any number of threads while a model is
rewritten, and beside the rewriting cost next to nothing: see `benchmarks/copy_speed.py`, part hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from unmergeable.checkpoint.header import Header, TensorEntry, read_header
from unmergeable.checkpoint.source import open_source


def digest_of(content: bytes | memoryview) -> str:
    """BLAKE3 of bytes, in hexadecimal."""
    return blake3(content).hexdigest()


def weights_digest(entries: Mapping[str, TensorEntry], digests: Mapping[str, str]) -> str:
    """BLAKE3 over every tensor's name, dtype, shape and own digest, in order of the names.

    It does not depend on how the weights are sharded.

    Args:
        entries: the tensors.
        digests: the digest of each tensor's bytes.
    """
    whole = blake3()
    for name in sorted(entries):
        entry = entries[name]
        shape = ",".join(map(str, entry.shape))
        whole.update(f"{name}\0{entry.dtype}\0{shape}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def shard_digest(header: Header, digests: Mapping[str, str]) -> str:
    """BLAKE3 over a weight file's header, and its tensors' digests in the order of their bytes.

    Args:
        header: the file's.
        digests: the digest of each tensor's bytes.
    """
    whole = blake3(header.raw)
    for entry in header.tensors:
        whole.update(f"{digests[entry.name]}\n".encode())
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """What a manifest says of a file: its digest, or its digest as a shard.

    Raises:
        InputError: a weight file that is damaged.
    """
    if path.suffix != ".safetensors":
        return digest_of(path.read_bytes())
    header, source = read_header(path), open_source(path)
    try:
        digests = {entry.name: digest_of(source.read(entry).data) for entry in header.tensors}
        return shard_digest(header, digests)
    finally:
        source.close()
