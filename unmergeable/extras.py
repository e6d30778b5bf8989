"""The optional parts of the package: which extra brings which library."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from unmergeable.errors import MissingExtraError

EXTRAS = {
    "torch": "run",
    "transformers": "run",
    "safetensors": "run",
    "scipy": "audit",
    "mergekit": "audit",
    "jinja2": "audit",
    "yaml": "audit",
    "PIL": "audit",
    "lm_eval": "harness",
    "gguf": "demo",
    "accelerate": "run",
    "psutil": "run",
    "ray": "ray",
    "peft": "train",
    "matplotlib": "train",
    "onnx": "demo",
    "model_signing": "signing",
}


def optional(module: str) -> Any:
    """Imports a module of a library that an extra brings.

    Args:
        module: for example "scipy.linalg".

    Raises:
        MissingExtraError: the library is not installed; says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != library:
            raise  # it is there, but something of its own is missing
        raise MissingExtraError(
            f"this needs {library}. Install it with: pip install 'unmergeable[{EXTRAS[library]}]'"
        ) from None
