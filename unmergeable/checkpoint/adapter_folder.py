"""A PEFT adapter's folder as found, and the names of what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from unmergeable.checkpoint.adapter_config import CONFIG, read_config
from unmergeable.checkpoint.folder import CONFIG as MODEL_CONFIG
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.header import read_header
from unmergeable.errors import InputError

WEIGHTS = "adapter_model.safetensors"
ROOT = "base_model.model."
# Where biases are trained, PEFT saves those of whole modules under these names besides.
COPIES = ("modules_to_save", "original_module")
TOKENS = "token_adapter.trainable_tokens_delta"
# What follows the module's name; every other tensor is a whole one that PEFT saved along.
_PART = re.compile(
    r"(.*)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    rf"|lora_magnitude_vector(?:\.weight)?|{re.escape(TOKENS)})"
)


class AdapterTensor(NamedTuple):
    """What a tensor of an adapter is.

    Attributes:
        module: the adapted layer, as its model names it; of a whole tensor, the tensor's name.
        part: "lora_A.weight" and the like; of a whole tensor empty, or one of COPIES.
    """

    module: str
    part: str

    @property
    def is_whole(self) -> bool:
        """Whether it is a tensor of the model itself, not a part of its change."""
        return self.part in ("", *COPIES)


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    return (Path(path) / CONFIG).is_file() and not (Path(path) / MODEL_CONFIG).exists()


def open_either(path: Path) -> ModelFolder:
    """Reads the folder of a model or of an adapter.

    Raises:
        UnmergeableError: as `open_folder`, or as `open_adapter`.
    """
    return open_adapter(path) if is_adapter(path) else open_folder(path)


def open_adapter(path: str | Path) -> ModelFolder:
    """Reads an adapter's config and header.

    Args:
        path: a folder as PEFT saves it; LoRA, rank-stabilised LoRA or DoRA.

    Raises:
        InputError: what is missing or damaged; weights in a pickle.
        UnsupportedError: an adapter of another kind, by its name.
    """
    folder = Path(path)
    config = read_config(folder)
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
    bare = bare.replace(".base_layer.", ".")
    part = next((one for one in COPIES if f".{one}." in bare), "")
    return AdapterTensor(bare.replace(f".{part}.", ".") if part else bare, part)
