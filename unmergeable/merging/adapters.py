"""Low-rank adapters as PEFT saves them: folders of A and B, and a config that says how to scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.checkpoint.adapter_config import scale_of
from unmergeable.checkpoint.adapter_folder import ROOT, WEIGHTS, open_adapter, parse_name
from unmergeable.errors import InputError
from unmergeable.extras import optional

if TYPE_CHECKING:
    import torch


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
        UnsupportedError: an adapter that is not LoRA.
    """
    opened = open_adapter(folder)
    config = opened.config
    _check_plain(opened.local, config)
    tensors: dict[str, torch.Tensor] = optional("safetensors.torch").load_file(
        opened.local / WEIGHTS
    )
    pairs = {}
    for key in sorted(tensors):
        layer, part = parse_name(key)
        other = f"{ROOT}{layer}.lora_B.weight"
        if part == "lora_A.weight" and other in tensors:
            rank = tensors[key].shape[0]
            pairs[f"{layer}.weight"] = Pair(
                tensors[key],
                tensors[other],
                scale_of(config, layer, rank),
                bool(config.get("fan_in_fan_out")),
            )
    if strange := len(tensors) - 2 * len(pairs):
        names = [key for key in sorted(tensors) if ".lora_" not in key] or sorted(tensors)
        raise InputError(
            f"{opened.path / WEIGHTS} has {strange} tensors that are no A or B of a linear layer, "
            f"such as {names[0]!r}: merge it into its base first."
        )
    return pairs


def _check_plain(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("use_dora") or config.get("lora_bias"):
        raise InputError(
            f"{folder} holds an adapter with use_dora={bool(config.get('use_dora'))}, "
            f"lora_bias={bool(config.get('lora_bias'))}: "
            "only plain LoRA is read. Merge it into its base first."
        )
