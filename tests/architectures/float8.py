"""A tiny folder in float8 with scales, and the numbers that such a folder stands for."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.architectures.families import FAMILIES, Family

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
_MATRIX = re.compile(r"(_proj|_a_proj_with_mqa|\.w[123])\.weight$")


def family_named(name: str) -> Family:
    """A row of FAMILIES."""
    return next(family for family in FAMILIES if family.name == name)


def spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """A scale for each weight, from one for each block."""
    rows, columns = (torch.arange(n) // b for n, b in zip(shape, block, strict=True))
    return scale[rows][:, columns]


def quantise(weight: torch.Tensor, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix in float8, and the scale of each block, shape (rows / block, columns / block)."""
    counts = [math.ceil(n / b) for n, b in zip(weight.shape, block, strict=True)]
    scale = torch.empty(*counts)
    for i in range(counts[0]):
        for j in range(counts[1]):
            part = weight[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            scale[i, j] = part.abs().max() / LARGEST
    return (weight / spread(scale, weight.shape, block)).to(FLOAT8), scale


def save_float8(
    family: Family, folder: Path, block: tuple[int, int], settings: dict[str, Any], scale: str
) -> None:
    """Saves a family's tiny model with its matrices in float8.

    Args:
        family: whose.
        folder: to make.
        block: weights that share a scale; as large as the matrix for 0.
        settings: quantization_config.
        scale: the end of the scales' names.
    """
    family.build(torch.bfloat16).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    for name, weight in list(state.items()):
        if weight.ndim == 2 and _MATRIX.search(name):
            size = tuple(b or n for b, n in zip(block, weight.shape, strict=True))
            state[name], scales = quantise(weight.float(), size)
            state[name.removesuffix("weight") + scale] = scales
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def dequantised(folder: Path, block: tuple[int, int], scale: str) -> dict[str, torch.Tensor]:
    """What a folder's tensors stand for, in float64; scales left out."""
    state = load_file(folder / "model.safetensors")
    found = {}
    for name, weight in state.items():
        if name.endswith(("scale", "scale_inv")):
            continue
        scales = state.get(name.removesuffix("weight") + scale)
        found[name] = weight.double()
        if scales is not None:
            size = tuple(b or n for b, n in zip(block, weight.shape, strict=True))
            found[name] *= spread(scales.double(), weight.shape, size)
    return found
