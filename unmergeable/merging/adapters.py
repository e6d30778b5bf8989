"""Low-rank adapters as PEFT saves them: folders of A and B, and a config that says how to scale."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.extras import optional

if TYPE_CHECKING:
    import torch

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ROOT = "base_model.model."


@dataclass(frozen=True, eq=False)
class Pair:
    """One layer's adapter: the weight changes by `scale` B A.

    Attributes:
        a: shape (r, in).
        b: shape (out, r).
        scale: PEFT's lora_alpha / r, or / √r for rank-stabilised adapters.
        transposed: whether the weight it changes is stored (in, out), as GPT-2's are.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    transposed: bool = False

    @property
    def delta(self) -> torch.Tensor:
        """The change of the weight, float32, shape (out, in)."""
        return self.b.float() @ self.a.float() * self.scale


def read_adapter(folder: str | Path) -> dict[str, Pair]:
    """Reads a LoRA folder of PEFT.

    Returns:
        By the name of the weight that it changes, as the base's folder has it.

    Raises:
        InputError: no such folder, or an adapter that is more than A and B.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no {_CONFIG} that can be read: {error}") from None
    if not (folder / _WEIGHTS).exists():
        raise InputError(
            f"{folder} has no {_WEIGHTS}. Adapters in pickles are not read: save it as safetensors."
        )
    _check_plain(folder, config)
    tensors: dict[str, torch.Tensor] = optional("safetensors.torch").load_file(folder / _WEIGHTS)
    pairs = {}
    for key in sorted(tensors):
        layer = key.removeprefix(_ROOT).removesuffix(".lora_A.weight")
        other = f"{_ROOT}{layer}.lora_B.weight"
        if key == f"{_ROOT}{layer}.lora_A.weight" and other in tensors:
            rank = tensors[key].shape[0]
            pairs[f"{layer}.weight"] = Pair(
                tensors[key],
                tensors[other],
                _scale(config, layer, rank),
                bool(config.get("fan_in_fan_out")),
            )
    if strange := len(tensors) - 2 * len(pairs):
        names = [key for key in sorted(tensors) if ".lora_" not in key] or sorted(tensors)
        raise InputError(
            f"{folder / _WEIGHTS} has {strange} tensors that are no A or B of a linear layer, such "
            f"as {names[0]!r}: merge it into its base first."
        )
    return pairs


def _check_plain(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("lora_bias"):
        raise InputError(
            f"{folder} holds an adapter of type {config.get('peft_type')!r} with "
            f"use_dora={bool(config.get('use_dora'))}, lora_bias={bool(config.get('lora_bias'))}: "
            "only plain LoRA is read. Merge it into its base first."
        )


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    alpha = config.get("lora_alpha")
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if layer == pattern or layer.endswith(f".{pattern}"):
            alpha = value
    if not isinstance(alpha, int | float):
        raise InputError(f"{_CONFIG}: lora_alpha is {alpha!r}, not a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
