"""Blocks of a stored tensor without copies, in the tensor's own precision.

`strands.blocks` defines what a block is; here its positions are turned into slices wherever they
are consecutive, which is everywhere in practice. A fit reads every weight of two models, so that
float32 instead of float64, and views instead of copies, are most of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from unmergeable.gauge.axis_blocks import Block, blocks
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.memory import Bytes, empty
from unmergeable.gauge.notation import Atom, Axis, Spaces
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

Real = npt.NDArray[np.floating[Any]]


def values(data: Bytes, shape: Sequence[int], dtype: str) -> Real:
    """Stored bytes as numbers: float64 if stored so, else float32, which holds them exactly.

    Zeros for buffers such as position ids, where nothing can be fitted.

    Args:
        data: bytes, shape (nbytes,).
        shape: the tensor's dimensions, which the result has.
        dtype: as in safetensors headers.
    """
    form = FORMATS.get(dtype)
    if form is None:
        return np.zeros(shape, np.float32)
    stored = data.view(form.number)
    wide = np.dtype(np.float64 if dtype == "F64" else np.float32)
    if stored.dtype == wide:
        return cast(Real, stored.reshape(shape))
    out = empty(len(stored) * wide.itemsize).view(wide)
    out[:] = stored
    return cast(Real, out.reshape(shape))


def moved_values(
    change: TensorMap | StackMap, data: Bytes, shape: Sequence[int], dtype: str
) -> Real:
    """The numbers of a stored tensor after a map; what only changes places and signs moves as bits.

    Args:
        change: the map.
        data: bytes, shape (nbytes,).
        shape: the tensor's dimensions, which the result has.
        dtype: as in safetensors headers.
    """
    if dtype in FORMATS and change.is_lossless and not change.has_scales:
        return values(change.apply(data, shape, dtype, allow_non_finite=True), shape, dtype)
    return moved(change, values(data, shape, dtype))


def moved(change: TensorMap | StackMap, tensor: Real) -> Real:
    """Applies a map in the tensor's own precision; the result has the tensor's shape."""
    if isinstance(change, StackMap):
        return np.stack([moved(change.slices[old], tensor[old]) for old in change.source])
    for axis, part in enumerate(change.axes):
        if part is not None:
            tensor = _moved_along(part, tensor, axis)
    return tensor


def _moved_along(part: AxisMap, tensor: Real, axis: int) -> Real:
    scale = part.scale
    if scale is None:
        return cast(Real, part(cast(Float, tensor), axis).astype(tensor.dtype))
    out = empty(tensor.nbytes).view(tensor.dtype).reshape(tensor.shape)
    tensor = np.take(tensor, part.source, axis, out, mode="clip")
    if (scale != 1).any():
        shape = [-1 if other == axis else 1 for other in range(tensor.ndim)]
        tensor *= scale.astype(tensor.dtype).reshape(shape)
    return tensor


def parts(axes: Sequence[Axis], spaces: Spaces, tensor: Real) -> Iterator[Block]:
    """Takes a tensor apart as `strands.blocks` does; blocks share the tensor's memory if they can.

    Args:
        axes: as declared, one per dimension.
        spaces: with sizes; a space of any size takes the tensor's.
        tensor: its values.
    """
    places = [_places(axis, spaces, size) for axis, size in zip(axes, tensor.shape, strict=True)]
    for chosen in product(*places):
        atoms = tuple(atom for names, _, _ in chosen for atom in names)
        shape = [size for _, sizes, _ in chosen for size in sizes]
        found = tensor
        for axis, (_, _, where) in enumerate(chosen):
            found = found[(slice(None),) * axis + (where,)]
        # Blocks are annotated as float64, but whatever they do holds for float32 as well.
        yield Block(atoms, cast(Float, found.reshape(shape)))


def _places(
    axis: Axis, spaces: Spaces, size: int
) -> list[tuple[tuple[Atom, ...], tuple[int, ...], Any]]:
    """For each strand of an axis: its spaces, their sizes, and a slice or the positions."""
    found: list[tuple[tuple[Atom, ...], tuple[int, ...], Any]] = []
    for block in blocks([axis], spaces, np.arange(size, dtype=np.float64)):
        flat = block.values.reshape(-1).astype(np.int64)
        run = len(flat) > 0 and bool((np.diff(flat) == 1).all())
        where = slice(int(flat[0]), int(flat[-1]) + 1) if run else flat
        found.append((block.atoms, block.values.shape, where))
    return found
