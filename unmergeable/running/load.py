"""Loads a model folder as transformers would, without ever running code that a folder brings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError, UnmergeableError, UnsupportedError
from unmergeable.extras import optional
from unmergeable.running.offload import Offload

# Model classes of our own, whose code travels with the folders that need it.
_OWN = "unmergeable.defences.custom_code.modeling_mergebarrier"


def load_model(
    folder: str | Path, config: Mapping[str, Any], offload: Offload | None = None
) -> Any:
    """Loads a model in float32 and evaluation mode.

    Args:
        folder: the model.
        config: its config.json; names the class.
        offload: what to do with layers that do not fit in memory; None: they fit.

    Raises:
        InputError: transformers cannot load it.
        MissingExtraError: accelerate is not installed, and needed.
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
    options = {"dtype": torch.float32, "local_files_only": True}
    try:
        if offload is not None:
            return offload.load(loader, Path(folder), **options).eval()
        return loader.from_pretrained(folder, **options).eval()
    except UnmergeableError:
        raise
    except Exception as error:
        raise InputError(f"transformers cannot load {folder}: {error}") from None
