"""A model folder as found: config, weight files, and what may travel with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unmergeable.checkpoint.header import Header, TensorEntry, parse_json, read_header
from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
MANIFEST = "unmergeable.json"

# Only files that cannot hold weights are copied beside a protected model: one stray pickle, GGUF or
# second safetensors file would publish the open model.
_COMPANIONS = re.compile(
    r".*\.(json|txt|md|jinja|py|model|tiktoken|yaml|yml|css|png|jpg|jpeg|svg|pdf|rst)"
    r"|(licen[sc]e|notice|copying|use_policy|\.gitattributes)[^/]*",
    re.IGNORECASE,
)
MAX_COMPANION = 64 << 20


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a config and safetensors weights.

    Attributes:
        path: the folder.
        config: its config.json.
        files: the headers of its weight files, in order of their names.
        companions: relative paths of files that may be copied: config, tokenizer, cards, licences.
        left_out: relative paths of files that may hold weights besides, and are not copied.
    """

    path: Place
    config: Mapping[str, Any]
    files: tuple[Header, ...]
    companions: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def local(self) -> Path:
        """The folder on this machine, for libraries that open it themselves.

        Raises:
            InputError: it is elsewhere.
        """
        if isinstance(self.path, RemotePath):
            raise InputError(f"{self.path} is not on this machine. Download it first.")
        return self.path

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        """Every tensor, by name."""
        return {entry.name: entry for header in self.files for entry in header.tensors}

    @property
    def size(self) -> int:
        """Bytes of all weight files."""
        return sum(header.file_size for header in self.files)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The dimensions of every tensor, by name."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    def read_companion(self, name: str) -> bytes:
        """The content of a file that is not a weight file."""
        return (self.path / name).read_bytes()


def open_folder(path: str | Place) -> ModelFolder:
    """Reads a model folder's config and headers, and checks that they agree.

    Args:
        path: an ordinary Hugging Face model folder with safetensors weights.

    Raises:
        InputError: what is missing, damaged or at odds; a place that cannot be reached.
    """
    folder = path if isinstance(path, RemotePath) else Path(path)
    try:
        return _read_folder(folder)
    except OSError as error:
        if isinstance(folder, Path):
            raise
        raise InputError(f"{error.filename or folder}: {error.strerror}.") from None


def _read_folder(folder: Place) -> ModelFolder:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.")
    config = _config(folder)
    files: tuple[Header, ...]
    if (folder / SINGLE).is_file():
        files, index = (read_header(folder / SINGLE),), ""
    elif (folder / INDEX).is_file():
        files, index = _sharded(folder), INDEX
    else:
        raise InputError(_no_weights(folder))
    _check_unique(files)
    weights = {header.path.name for header in files}
    companions, left_out = companions_of(folder, weights | {MANIFEST}, index)
    return ModelFolder(folder, config, files, companions, left_out)


def companions_of(
    folder: Place, known: Collection[str], index: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Relative paths of files that may be copied beside weights, and of those that may not.

    Args:
        folder: where.
        known: names that are neither: weight files and the manifest.
        index: the name of the index in use, if any.
    """
    companions: list[str] = []
    left_out: list[str] = []
    for name in _names(folder):
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts[:-1])
        if name in known or hidden:
            continue
        stale_index = name.endswith(".safetensors.index.json") and name != index
        travels = _COMPANIONS.fullmatch(PurePosixPath(name).name) and (
            _size(folder / name) <= MAX_COMPANION
        )
        (companions if travels and not stale_index else left_out).append(name)
    return tuple(companions), tuple(left_out)


def _names(folder: Place) -> list[str]:
    """Relative paths of all files in a folder and below, in order."""
    if isinstance(folder, RemotePath):
        return folder.files()
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [file.relative_to(folder).as_posix() for file in files]


def _size(file: Place) -> int:
    return file.measure()[0] if isinstance(file, RemotePath) else file.stat().st_size


def check_same_tensors(
    first: ModelFolder, other: ModelFolder, standing: Callable[[str], str] = lambda name: name
) -> None:
    """Refuses models that are not of one architecture and vocabulary.

    Args:
        first: a model.
        other: another one.
        standing: the name that stands for a tensor that some folders store by another one.

    Raises:
        InputError: names the tensor that one lacks, or both shapes of it.
    """
    ours, theirs = (
        {standing(name): shape for name, shape in folder.shapes.items()}
        for folder in (first, other)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            missing = name not in ours or name not in theirs
            tied = missing and first.config.get("tie_word_embeddings") is not False
            raise InputError(
                f"{first.path} and {other.path} are not models of one kind: {name[:200]!r} is "
                f"{ours.get(name, 'absent')} in one and {theirs.get(name, 'absent')} in the other."
                + " If it is tied to another tensor (tie_word_embeddings), load that model with "
                "transformers and save it again." * tied
            )


def _config(folder: Place) -> Mapping[str, Any]:
    config = _json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if config is None:
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"{folder} is an adapter, not a model: the change of coordinates of its product "
                "does not cancel against the frozen base. Merge it into its base first; or lock "
                "that model and carry the adapter along: --model LOCKED."
            )
        raise InputError(f"{folder} has no {CONFIG}: it is not a model folder.")
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a JSON object.")
    return config


def _json(path: Place) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from None


def _sharded(folder: Place) -> tuple[Header, ...]:
    """The files that an index names, checked against it both ways."""
    path = folder / INDEX
    try:
        table = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is corrupt: {error}.") from None
    where = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(where, dict) or not where:
        raise InputError(f"{path} has no weight_map.")
    for name, file in where.items():
        if not isinstance(file, str) or file != PurePosixPath(file).name or file in ("", ".."):
            raise InputError(f"{path} puts {name!r} into {file!r}, outside the folder.")
        if not file.endswith(".safetensors"):
            raise InputError(f"{path} puts {name!r} into {file!r}, which is not safetensors.")
    files = []
    for file in sorted(set(where.values())):
        if not (folder / file).is_file():
            raise InputError(f"{path} names {file!r}, which is missing. Is the download complete?")
        files.append(read_header(folder / file))
    found = {entry.name: header.path.name for header in files for entry in header.tensors}
    for name in sorted(where.keys() | found.keys()):
        if where.get(name) != found.get(name):
            _check_unique(tuple(files))
            raise InputError(
                f"{path} puts {name!r} into {where.get(name)!r}, but it is in {found.get(name)!r}."
            )
    return tuple(files)


def _check_unique(files: tuple[Header, ...]) -> None:
    seen: dict[str, str] = {}
    for header in files:
        for entry in header.tensors:
            if entry.name in seen:
                raise InputError(
                    f"{entry.name!r} stands in both {seen[entry.name]} and {header.path.name}."
                )
            seen[entry.name] = header.path.name


def _no_weights(folder: Place) -> str:
    """Says what the folder has instead of safetensors."""
    pickles = sorted(
        file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if pickles:
        return (
            f"{folder} has its weights in pickles ({', '.join(pickles[:3])}), which can run code "
            "when they are read. Convert it: load it with transformers and save_pretrained it."
        )
    other = sorted(file.name for file in folder.glob("*.safetensors"))
    if other:
        return f"{folder} has {', '.join(other[:3])}, but neither {SINGLE} nor {INDEX}."
    return f"{folder} has no safetensors weights ({SINGLE} or {INDEX})."
