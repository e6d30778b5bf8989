"""Tensors kept in a file for a while, so that they need not be in memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.models.file_mapping import GRANULE, mapped

if TYPE_CHECKING:
    import torch

# Bytes from which on a tensor is mapped: smaller ones are sooner read, and mappings are counted.
_MAPPED = 1 << 18


class OffloadedState(Mapping[str, "torch.Tensor"]):
    """A state whose tensors lie in a temporary file; each look-up gives a new tensor.

    The file has no name, and goes with this object. Where there is memory to spare, the system
    keeps the file in it. A large tensor is then that memory itself, until the last view of it is
    gone or somebody writes to it: so looking one up costs about nothing, however often.

    Args:
        state: the tensors, or pairs of name and tensor; none of them is held on to.
        device: where look-ups give them; by default where each came from.

    Raises:
        OSError: the disk is full.
    """

    def __init__(
        self,
        state: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
        device: torch.device | None = None,
    ) -> None:
        file = tempfile.TemporaryFile(prefix="unmergeable-", buffering=0)  # noqa: SIM115
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self._where: dict[str, tuple[int, torch.dtype, torch.Size, torch.device]] = {}
        end = 0
        for name, tensor in state.items() if isinstance(state, Mapping) else state:
            view, done = _bytes(tensor.detach().cpu().contiguous()).data, 0
            if len(view) >= _MAPPED:
                end = -(-end // GRANULE) * GRANULE
            self._where[name] = end, tensor.dtype, tensor.shape, device or tensor.device
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], end + done)
            end += len(view)

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        start, dtype, shape, device = self._where[name]
        size = dtype.itemsize * shape.numel()
        found = mapped(self._descriptor, start, size) if size >= _MAPPED else None
        if found is not None:
            return torch.from_numpy(found).view(dtype).reshape(shape).to(device)
        tensor = torch.empty(shape, dtype=dtype)
        view, done = _bytes(tensor).data, 0
        while done < len(view):
            done += os.preadv(self._descriptor, [view[done:]], start + done)
        return tensor.to(device)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _bytes(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A contiguous tensor's memory."""
    import torch

    return np.asarray(tensor.reshape(-1).view(torch.uint8).numpy())
