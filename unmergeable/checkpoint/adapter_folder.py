"""A PEFT adapter's folder as found, and the names of what is in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import read_header
from unmergeable.errors import InputError, UnsupportedError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
# What follows the module's name; every other tensor is a whole one that PEFT saved along.
_PART = re.compile(
    r"(.*)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)"
)


class AdapterTensor(NamedTuple):
    """What a tensor of an adapter is.

    Attributes:
        module: the adapted layer, as its model names it; of a whole tensor, the tensor's name.
        part: "lora_A.weight" and the like; empty for a whole tensor.
    """

    module: str
    part: str


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(path) / CONFIG).is_file()


def open_adapter(path: str | Path) -> ModelFolder:
    """Reads an adapter's config and header.

    Args:
        path: a folder as PEFT saves it; LoRA, rank-stabilised LoRA or DoRA.

    Raises:
        InputError: what is missing or damaged; weights in a pickle.
        UnsupportedError: an adapter of another kind, by its name.
    """
    folder = Path(path)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no {CONFIG} that can be read: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UnsupportedError(
            f"{folder} holds an adapter of type {kind!r}: only LORA changes weights by a product "
            "that a change of coordinates can follow."
        )
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder} has no {WEIGHTS}. Adapters in pickles are not read: save it as safetensors."
        )
    return ModelFolder(folder, config, (read_header(folder / WEIGHTS),))


def parse_name(name: str) -> AdapterTensor:
    """What a tensor is, from its name."""
    bare = name.removeprefix(ROOT)
    if found := _PART.fullmatch(bare):
        return AdapterTensor(found[1], found[2])
    # Beside an adapted embedding table PEFT saves the table itself.
    return AdapterTensor(bare.replace(".base_layer.", "."), "")


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A by: lora_alpha / r, or / √r for rank-stabilised adapters.

    Raises:
        InputError: no such number in the config.
    """
    alpha = config.get("lora_alpha")
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            alpha = value
    if not isinstance(alpha, int | float):
        raise InputError(f"{CONFIG}: lora_alpha is {alpha!r}, not a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
