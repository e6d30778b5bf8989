"""A model folder as found: config, weight files, and what may travel with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.companions import (
    ADAPTER,
    RELOCATION,
    Chosen,
    choose,
    modules_of,
    read_companion,
)
from unmergeable.checkpoint.companions import CONFIG as CONFIG
from unmergeable.checkpoint.header import Header, TensorEntry, parse_json, read_header
from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.checkpoint.small_files import is_there, read_json, read_small
from unmergeable.errors import InputError, clip, quoted

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MANIFEST = "unmergeable.json"
MAX_INDEX = 64 << 20


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a config and safetensors weights.

    Attributes:
        path: the folder.
        config: its config.json.
        files: the headers of its weight files, in order of their names.
        index: the name of its index; empty where one file holds all tensors.
    """

    path: Place
    config: Mapping[str, Any]
    files: tuple[Header, ...]
    index: str = ""

    def choose(self, also: Collection[str] = ()) -> Chosen:
        """Says which files beside the weights may be copied, and why the others may not.

        Args:
            also: names that are needed besides those of the table.

        Raises:
            InputError: as `companions.choose`.
        """
        known = {MANIFEST, *(header.path.name for header in self.files)}
        return choose(self.path, known, self.index, also)

    @cached_property
    def _chosen(self) -> Chosen:
        return self.choose()

    @property
    def companions(self) -> tuple[str, ...]:
        """Relative paths of files that may be copied: config, tokenizer, cards, licences."""
        return self._chosen.travel

    @property
    def left_out(self) -> tuple[str, ...]:
        """Relative paths of files that are not copied; `reasons` says why."""
        return tuple(self._chosen.left_out)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each of the files that are left out is."""
        return self._chosen.left_out

    @property
    def is_private(self) -> bool:
        """Whether it is a private base, which stays with its owner."""
        return is_there(self.path / RELOCATION)

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
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without the files' headers."""
        return sum(entry.size for header in self.files for entry in header.tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The dimensions of every tensor, by name."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """The types in modules.json, in order; none where it is no sentence-transformers folder.

        Raises:
            InputError: a modules.json that is not a list of modules.
        """
        return tuple(module.type for module in modules_of(self.path))

    def read_companion(self, name: str) -> bytes:
        """The content of a file that is not a weight file.

        Raises:
            InputError: it cannot be read.
        """
        return read_companion(self.path, name)


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
    if is_there(folder / SINGLE):
        files, index = (read_header(folder / SINGLE),), ""
    elif is_there(folder / INDEX):
        files, index = _sharded(folder), INDEX
    else:
        raise InputError(_no_weights(folder))
    _check_unique(files)
    return ModelFolder(folder, config, files, index)


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
                f"{first.path} and {other.path} are not models of one kind: {quoted(name)} is "
                f"{ours.get(name, 'absent')} in one and {theirs.get(name, 'absent')} in the other."
                + " If it is tied to another tensor (tie_word_embeddings), load that model with "
                "transformers and save it again." * tied
            )


def _config(folder: Place) -> Mapping[str, Any]:
    adapter = is_there(folder / ADAPTER)
    if not is_there(folder / CONFIG):
        if adapter:
            raise InputError(
                f"{folder} is an adapter, not a model: the change of coordinates of its product "
                "does not cancel against the frozen base. Merge it into its base first; or lock "
                "that model and carry the adapter along: --model LOCKED. A mark it can have: "
                "--defence mark --base BASE."
            )
        raise InputError(f"{folder} has no {CONFIG}: it is not a model folder.")
    if adapter:
        raise InputError(
            f"{folder} has an adapter beside the model ({ADAPTER}), which transformers applies "
            "when it loads the folder. Merge it into the model; or move it to a folder of its own, "
            "and carry it along when the model is locked: --model LOCKED."
        )
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is not a JSON object.")
    return config


def _sharded(folder: Place) -> tuple[Header, ...]:
    """The files that an index names, checked against it both ways."""
    path = folder / INDEX
    try:
        table = parse_json(read_small(path, MAX_INDEX))
    except ValueError as error:
        raise InputError(f"{path} is corrupt: {clip(error, 400)}.") from None
    where = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(where, dict) or not where:
        raise InputError(f"{path} has no weight_map.")
    for name, file in where.items():
        inside = isinstance(file, str) and "/" not in file and file not in ("", ".", "..")
        if not inside or not file.endswith(".safetensors"):
            wrong = "which is not safetensors" if inside else "outside the folder"
            raise InputError(f"{path} puts {quoted(name)} into {quoted(file)}, {wrong}.")
    files = []
    for file in sorted(set(where.values())):
        if not is_there(folder / file):
            raise InputError(
                f"{path} names {quoted(file)}, which is missing. Is the download complete?"
            )
        files.append(read_header(folder / file))
    found = {entry.name: header.path.name for header in files for entry in header.tensors}
    for name in sorted(where.keys() | found.keys()):
        if where.get(name) != found.get(name):
            _check_unique(tuple(files))
            raise InputError(
                f"{path} puts {quoted(name)} into {quoted(where.get(name))}, but it is in "
                f"{quoted(found.get(name))}."
            )
    return tuple(files)


def _check_unique(files: tuple[Header, ...]) -> None:
    seen: dict[str, str] = {}
    for header in files:
        for entry in header.tensors:
            if entry.name in seen:
                both = f"both {seen[entry.name]} and {header.path.name}"
                raise InputError(f"{quoted(entry.name)} stands in {both}.")
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
