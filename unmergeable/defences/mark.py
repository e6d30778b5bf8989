"""The mark: signs that only the owner's key makes, added to a task vector (ours).

Every matrix of a layer gets `strength * sigma * s`, where s is a sign for each number, drawn from
the key, the release and the licensee, and sigma the root mean square of the matrix's task vector.
Merging scales the task vector and the mark alike, so that `trace` finds it in a merge, with a
p-value that holds for whatever was made without the key.

What is claimed ("claim"): the model works as before, to the loss that `strength` buys, and `trace`
finds the mark in merges of it. It is not exact: the weights change, and no key takes the mark off.
Data: none. It needs the public base. Architectures: every declared family. What changes in the
folder: the numbers of the layers' matrices. What undoes it: training it away, or distilling.

In formats of 16 bits the mark is far below the rounding. There a number moves by a whole step or
not at all, at random, so that its mean is the marked one; the key draws that, too.

An adapter s B A is marked in B. With Q the orthonormal rows that span those of A, each s B A
becomes s B A + `strength * sigma * S Q`: one sign for each number of B, and sigma the root mean
square of s B A in the coordinates Q. The rows of A are known to the owner, so that `trace` finds S
in whatever the adapter was merged into. Directions in which A is weak carry no mark, as B would
have to grow there.

Source: ours; the statistic is in `tracing.statistic`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.digest import digest_of, weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.defence import Claim, Defence, FieldRow, Summary
from unmergeable.errors import InputError
from unmergeable.gauge.floats import FORMATS, Float, Format
from unmergeable.gauge.memory import Bytes
from unmergeable.keys.key import Key
from unmergeable.settings import Number, Setting, read

NAME = "mark"
STRENGTH = 0.1
SETTINGS: Mapping[str, Setting] = {
    "strength": Number(
        "the mark's size, as a share of what fine-tuning changed. More is found in smaller shares "
        "of a merge, and costs the model more.",
        STRENGTH,
        high=1.0,
        above=True,
    ),
    "licensee": Setting("whose copy this is.", "", "empty, the release to all"),
}
NAME_LENGTH = 200  # characters of a licensee's name
# Formats that a mark is written in; float32 and float64 hold it as it is.
DITHERED = ("F16", "BF16")
MARKED = ("F64", "F32", *DITHERED)
_WEAK = 1e-3  # of the largest eigenvalue of A A^T; directions below it carry no mark


class MarkDefence(Defence):
    """Signs of the owner's that `trace` finds in merges."""

    name = NAME
    title = "mark"
    paper = "ours"
    settings = SETTINGS
    summary = Summary(
        claims="is found in merges of the model, with a p-value",
        exact="no: signs are added to the weights",
        needs="`--base`",
        changes="matrices of the layers",
        undone_by="long training, few bits, distillation",
    )
    claims = (
        Claim(
            "unmergeable, docs/guide/trace.md",
            "the model works as before for its users",
            "at most 0.2 points lost",
            "own",
        ),
    )
    rows = (FieldRow("mark", "mark", extra=True, order=900),)
    order = 50


def read_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a mark, checked.

    Raises:
        InputError: an unknown setting or value.
    """
    known = read(SETTINGS, given, NAME)
    licensee = known["licensee"]
    if not isinstance(licensee, str) or len(licensee) > NAME_LENGTH:
        raise InputError(f"licensee: give a name of at most {NAME_LENGTH} characters.")
    return known


@dataclass(frozen=True)
class Mark:
    """The mark of one release for one licensee.

    Attributes:
        secret: what its signs are drawn from, 32 bytes. Anyone who has it can show this mark, or
            take it off; it says nothing of the key and of other marks.
        release: the digest of the unmarked weights; see `release_of`.
        licensee: whose copy; empty for the release to all.
        scales: by name, what a tensor's signs are multiplied by.
    """

    secret: bytes = field(repr=False)
    release: str = ""
    licensee: str = ""
    scales: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        key: Key,
        release: str,
        licensee: str = "",
        scales: Mapping[str, float] | None = None,
    ) -> Mark:
        """The mark that a key makes; the arguments are those of the attributes."""
        secret = key.derive(f"mark/{release}/{licensee}")
        return cls(secret, release, licensee, scales or {})

    @property
    def commitment(self) -> str:
        """What may be published before a claim: SHA-256 of the secret, the release and the name.

        The secret keeps the name from being guessed. As the release is in it, too, nobody can
        choose another expert once a suspect is known, to which the signs would fit.
        """
        bound = self.secret + f"{self.release}/{self.licensee}".encode()
        return hashlib.sha256(bound).hexdigest()

    def signs(self, name: str, count: int) -> npt.NDArray[np.int8]:
        """The signs of a tensor, 1 and -1, shape (count,)."""
        bits = np.frombuffer(self._stream(f"signs/{name}", (count + 7) // 8), np.uint8)
        ones = np.unpackbits(bits, count=count, bitorder="little").view(np.int8)
        return (1 - 2 * ones).astype(np.int8)

    def add(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """A tensor's bytes with the mark; those of tensors that have none, as they are."""
        scale = self.scales.get(entry.name)
        if scale is None:
            return data
        signs = self.signs(entry.name, math.prod(entry.shape))
        return self.put(entry.name, entry.dtype, data, np.float64(scale) * signs)

    def put(self, name: str, dtype: str, data: Bytes, change: Float) -> Bytes:
        """Numbers with a change, rounded so that its mean stays.

        Args:
            name: of the tensor whose signs the change is made of.
            dtype: of the numbers, one of `MARKED`.
            data: the numbers' bytes.
            change: what is added, shape (n,).
        """
        form = FORMATS[dtype]
        marked = form.values(data) + change
        if dtype in DITHERED:
            chances = np.frombuffer(self._stream(f"steps/{name}", 2 * marked.size), "<u2")
            return _dithered(marked, form, chances).view(np.uint8)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(marked.astype(form.number)).view(np.uint8)

    def _stream(self, name: str, size: int) -> bytes:
        key = hmac.new(self.secret, name.encode(), hashlib.sha256).digest()
        return (
            Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))
        )


def is_marked(layout: Layout, entry: TensorEntry) -> bool:
    """Whether a tensor is one that marks are put on: a matrix of a layer, of real numbers."""
    placement = layout.placements.get(entry.name)
    in_layer = placement is not None and bool(placement.rule.indices())
    return in_layer and len(entry.shape) > 1 and entry.dtype in MARKED


def release_of(folder: ModelFolder, layout: Layout, reader: TensorReader) -> str:
    """The digest that a release's marks are drawn for: of the matrices of the expert's layers."""
    entries = {n: entry for n, entry in folder.tensors.items() if is_marked(layout, entry)}
    return weights_digest(entries, {name: digest_of(reader.read(name).data) for name in entries})


def scale_of(vector: Float) -> float:
    """The root mean square of a task vector; 0 where it is not finite."""
    found = float(np.sqrt(np.mean(np.square(vector)))) if vector.size else 0.0
    return found if np.isfinite(found) else 0.0


def root_inverse(rows: Float) -> Float:
    """(A A^T)^(-1/2), which makes orthonormal rows of those of A, shape (r, r).

    It is symmetric, and so the same whatever eigenvectors a library chooses. Directions that are
    weak in A are left out; of rows that are not finite, all are.

    Args:
        rows: A, shape (r, in).
    """
    with np.errstate(all="ignore"):
        gram = rows @ rows.T
    if not np.isfinite(gram).all():
        return np.zeros_like(gram)
    values, vectors = np.linalg.eigh(gram)
    kept = (values > _WEAK * values[-1]) & (values > 0)
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T)


def _dithered(values: Float, form: Format, chances: npt.NDArray[np.uint16]) -> Bytes:
    """Rounds up or down at random, so that the mean stays."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(form.number)
        back = near.astype(np.float64)
        other = np.nextafter(near, np.where(back < values, np.inf, -np.inf).astype(form.number))
        step = other.astype(np.float64) - back
        share = np.where(step != 0, (values - back) / step, 0.0)
        moves = chances < np.nan_to_num(share) * 65536
        moves &= np.isfinite(other.astype(np.float64))
        out = np.where(moves, other, near)
    return np.ascontiguousarray(out).view(np.uint8)
