"""Models larger than memory: accelerate reads their layers from the disk when it is their turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.machine import available_memory

# Models are run in float32, whatever they are stored in.
BYTES_PER_WEIGHT = 4
# The share of free memory that weights may take; activations and the loading itself take more.
SHARE = 0.8
_WHOLE = "whole model to the disk"


@dataclass(frozen=True)
class Offload:
    """How to run a model whose weights do not fit in memory.

    Attributes:
        folder: for weights that transformers does not use as they are stored, stacked experts for
            instance; up to four bytes for each.
        memory: bytes of main memory that weights may take; None for what is free, accelerators
            first.
    """

    folder: Path
    memory: int | None = None

    def load(self, loader: Any, folder: Path, **options: Any) -> Any:
        """Loads a model with as many of its layers in memory as there is room for.

        Args:
            loader: its class in transformers.
            folder: the model.
            options: for `from_pretrained`.
        """
        optional("accelerate")
        options["offload_folder"] = str(self.folder)
        if self.memory is not None:
            options["max_memory"] = {"cpu": self.memory}
        try:
            return loader.from_pretrained(folder, device_map="auto", **options)
        except ValueError as error:
            if _WHOLE not in str(error):
                raise
        # Accelerate wants something in memory, and its own map gave up at the first large layer.
        options.pop("max_memory", None)
        layers = _disk_map(loader, folder)
        return loader.from_pretrained(folder, device_map=layers, **options)


def is_short(shapes: Mapping[str, Sequence[int]], there: int | None = None) -> bool:
    """Whether a model of these tensors does not fit into so many bytes, by default what is free."""
    needed = BYTES_PER_WEIGHT * sum(math.prod(shape) for shape in shapes.values())
    return needed > SHARE * (available_memory() if there is None else there)


def _disk_map(loader: Any, folder: Path) -> dict[str, str]:
    """Every layer on the disk but the smallest one.

    Raises:
        InputError: a class that says nothing of its config.
    """
    torch = optional("torch")
    kind = getattr(loader, "config_class", None)
    if kind is None:
        raise InputError(f"{folder} names no model class, so that it cannot be run in parts.")
    with torch.device("meta"):
        model = loader(kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for tensor, value in own:
            place = name or tensor  # what the model itself holds has no layer
            sizes[place] = sizes.get(place, 0) + value.numel()
    least = min(sizes, key=lambda name: sizes[name])
    return {name: "cpu" if name == least else "disk" for name in sizes}
