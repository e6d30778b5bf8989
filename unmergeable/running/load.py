"""Loads a model folder as transformers would, without ever running code that a folder brings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError, UnsupportedError
from unmergeable.extras import optional

# Model classes of our own, whose code travels with the folders that need it.
_OWN = "unmergeable.defences.custom_code.modeling_mergebarrier"


def load_model(folder: str | Path, config: Mapping[str, Any]) -> Any:
    """Loads a model in float32 and evaluation mode.

    Args:
        folder: the model.
        config: its config.json; names the class.

    Raises:
        InputError: transformers cannot load it.
        UnsupportedError: a model class that neither transformers nor this package has.
    """
    torch, transformers = optional("torch"), optional("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = (config.get("architectures") or [""])[0]
    loader = getattr(transformers, name, None) if name else transformers.AutoModel
    if loader is None and "auto_map" in config:
        loader = getattr(import_module(_OWN), name, None)
    if loader is None:
        raise UnsupportedError(f"this transformers has no model class {name!r}.")
    torch.manual_seed(0)  # what the folder lacks, transformers draws: the same every time
    try:
        return loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:
        raise InputError(f"transformers cannot load {folder}: {error}") from None
