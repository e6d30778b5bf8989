"""Loads what a model folder holds as transformers would, and never runs code that a folder brings.

Nothing else in the package asks transformers for something of a folder. Every call says that code
of the folder is not trusted, so that transformers neither runs it nor asks anybody whether to, and
that weights are safetensors, so that no pickle is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.folder import INDEX, SINGLE
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError, clip
from unmergeable.extras import optional
from unmergeable.models.offload import Offload

# Model classes of our own, whose code travels with the folders that need it.
_OWN = "unmergeable.defences.mergebarrier.custom_code.modeling_mergebarrier"
_CLOSED = {"local_files_only": True, "trust_remote_code": False}
_WEIGHTS = {**_CLOSED, "use_safetensors": True}

# A folder has a tokenizer if it has one of these sets of files.
_TOKENIZERS: tuple[frozenset[str], ...] = (
    frozenset({"tokenizer.json"}),
    frozenset({"tokenizer.model"}),
    frozenset({"vocab.txt"}),
    frozenset({"spiece.model"}),
    frozenset({"sentencepiece.bpe.model"}),
    frozenset({"vocab.json", "merges.txt"}),
)
_PROCESSOR = "preprocessor_config.json"
# Weights that transformers prefers to those that the folder's index names.
_SHARDS = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_ADAPTER = "adapter_config.json"
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation",
            "_experts_implementation")  # fmt: skip
_MESSAGE = 300  # characters of another library's error


def load_model(
    folder: str | Path, config: Mapping[str, Any], offload: Offload | None = None
) -> Any:
    """Loads a model in float32 and evaluation mode.

    Args:
        folder: the model.
        config: its config.json; names the class.
        offload: what to do with layers that do not fit in memory; None: they fit.

    Raises:
        InputError: transformers cannot load it, or would load something else.
        MissingExtraError: accelerate is not installed, and needed.
        UnsupportedError: a model class that neither transformers nor this package has.
    """
    transformers = _transformers()
    names = config.get("architectures") or [""]
    name = names[0] if isinstance(names, list) else names
    loader: Any = transformers.AutoModel
    if name:
        loader = getattr(transformers, name, None) if isinstance(name, str) else None
        if loader is None and "auto_map" in config:
            loader = getattr(import_module(_OWN), str(name), None)
        if not _is_model(loader, transformers):
            raise UnsupportedError(
                f"this transformers has no model class {_short(repr(name))}{_of_code(config)}."
            )
    return load_as(loader, folder, config, offload=offload)


def load_as(
    loader: Any,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    offload: Offload | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Loads a model as a class of transformers, in float32 and evaluation mode.

    Args:
        loader: the class, or one of transformers' Auto classes.
        folder: the model.
        config: its config.json.
        offload: what to do with layers that do not fit in memory; None: they fit.
        seed: of what the folder lacks and transformers draws.
        options: further ones for `from_pretrained`.

    Raises:
        InputError: transformers cannot load it, or would load something else.
        UnsupportedError: it needs code of the folder.
    """
    torch = optional("torch")
    _transformers()
    _check(Path(folder), config)
    torch.manual_seed(seed)
    options = {"dtype": torch.float32, **_WEIGHTS, **options}
    try:
        if offload is not None:
            return offload.load(loader, Path(folder), **options).eval()
        return loader.from_pretrained(folder, **options).eval()
    except UnmergeableError:
        raise
    except Exception as error:
        raise _failed(str(folder), error, config) from None


def load_tokenizer(folder: str | Path) -> Any:
    """A folder's tokenizer; None if it has none.

    Raises:
        InputError: one that transformers cannot load.
        UnsupportedError: one that needs code of the folder.
    """
    place, transformers = Path(folder), _transformers()
    files = {path.name for path in place.iterdir()}
    if not any(needed <= files for needed in _TOKENIZERS):
        return None
    # Of a folder whose model has code of its own, AutoTokenizer would want the config's code.
    plain = "tokenizer.json" in files and not _mapped(place / "tokenizer_config.json")
    own_code = plain and bool(_mapped(place / "config.json"))
    loader = getattr(transformers, "PreTrainedTokenizerFast" if own_code else "AutoTokenizer")
    try:
        return loader.from_pretrained(folder, **_CLOSED)
    except Exception as error:
        named = f"the tokenizer of {folder}"
        raise _failed(named, error, _mapped(place / "tokenizer_config.json")) from None


def load_image_processor(folder: str | Path) -> Any:
    """A folder's image processor; None if it has none.

    Raises:
        InputError: one that transformers cannot load.
        UnsupportedError: one that needs code of the folder.
    """
    place, transformers = Path(folder), _transformers()
    if not (place / _PROCESSOR).exists():
        return None
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, **_CLOSED)
    except Exception as error:
        named = f"the image processor of {folder}"
        raise _failed(named, error, _mapped(place / _PROCESSOR)) from None


def _transformers() -> Any:
    """The library, told to be silent."""
    transformers = optional("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _is_model(loader: Any, transformers: Any) -> bool:
    return isinstance(loader, type) and issubclass(loader, transformers.PreTrainedModel)


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses folders of which transformers would load something else than the package reads.

    Raises:
        InputError: names what.
    """
    weights = config.get("transformers_weights")
    if weights is not None and weights not in (SINGLE, INDEX):
        raise InputError(
            f"{folder}/config.json sends transformers to other weights ({_short(repr(weights))}). "
            "Remove its key 'transformers_weights'."
        )
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for key in _KERNELS:
            if isinstance(part.get(key), str) and re.search(r"[/@:]", part[key]):
                raise InputError(
                    f"{folder}/config.json asks for code from the Hub to compute with "
                    f"({key}: {_short(repr(part[key]))}). Remove that key."
                )
    try:
        files = {path.name for path in folder.iterdir()}
    except OSError:
        return  # the library says what is wrong with it
    if _ADAPTER in files:
        raise InputError(
            f"{folder} holds an adapter beside the model ({_ADAPTER}), which transformers would "
            "load along. Move the adapter's files into a folder of their own."
        )
    if others := _shards(files):
        raise InputError(
            f"{folder} holds weights that transformers would load in place of the model's: "
            f"{_short(others[0])}. Move them away."
        )


def _shards(files: Collection[str]) -> list[str]:
    return sorted(name for name in files if _SHARDS.fullmatch(name))


def _mapped(file: Path) -> Mapping[str, Any]:
    """A JSON file's content if it names code of the folder, else nothing."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and "auto_map" in document else {}


def _failed(what: str, error: Exception, config: Mapping[str, Any]) -> UnmergeableError:
    """The refusal for an error of transformers."""
    if "trust_remote_code" in str(error):
        return UnsupportedError(
            f"transformers cannot load {what} without code that comes with it{_of_code(config)}. "
            "Convert it to a class that transformers has."
        )
    return InputError(f"transformers cannot load {what}: {_short(str(error))}")


def _of_code(config: Mapping[str, Any]) -> str:
    """Which code a folder brings for its class."""
    found = sorted(set(re.findall(r"[\w-]+(?=\.\w+['\"])", repr(config.get("auto_map", "")))))
    if not found:
        return "" if "auto_map" not in config else ", and code of a folder is never run"
    files = ", ".join(f"{name}.py" for name in found[:3])
    return f"; the folder brings code for it ({_short(files)}), and code of a folder is never run"


def _short(text: str) -> str:
    """One line of bounded length."""
    return clip(" ".join(text.split()), _MESSAGE)
