"""What a model or an adapter differs from the base by, whichever of the two a folder holds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.adapter_folder import is_adapter, open_either
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import is_marked, release_of
from unmergeable.gauge.floats import FORMATS, Float
from unmergeable.gauge.memory import Bytes
from unmergeable.protection.adapter_changes import AdapterChanges

Carrier = Callable[[Float], Float]


class TaskVectors(AbstractContextManager["TaskVectors", None]):
    """The task vectors of one folder, read one after the other; a context manager.

    Attributes:
        folder: whose.
        shapes: of the matrices that it has and that hold real numbers, by name.
        tail: times the root mean square of a task vector, up to which its numbers are none that
            somebody blew up.
    """

    tail = 1.0
    folder: ModelFolder
    shapes: Mapping[str, tuple[int, ...]]

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Of the model; an adapter has its base's."""

    @abstractmethod
    def vector(self, name: str, start: Float) -> Float:
        """What one matrix differs from the base's by, in its shape.

        Args:
            name: of the matrix.
            start: the base's numbers, in its shape.
        """

    @abstractmethod
    def marked(self) -> list[str]:
        """The matrices that marks are put on, in order of their names."""

    @abstractmethod
    def release(self) -> str:
        """The digest that marks are drawn for."""

    def carrier(self, name: str) -> Carrier | None:
        """What takes a task vector, as numbers in order, to the numbers that the mark is on.

        Returns:
            None if the mark is on the numbers themselves.
        """
        return None


class ModelVectors(TaskVectors):
    """Of a model.

    Args:
        folder: its own.
        tensors: the bytes of each tensor, where they are not those in the folder.
    """

    def __init__(self, folder: ModelFolder, tensors: Mapping[str, Bytes] | None = None) -> None:
        self.folder, self._moved = folder, tensors
        self.shapes = {n: e.shape for n, e in folder.tensors.items() if e.dtype in FORMATS}
        self._reader = TensorReader(folder)

    def __enter__(self) -> ModelVectors:
        self._reader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._reader.__exit__(*error)

    @cached_property
    def layout(self) -> Layout:
        """See `TaskVectors`."""
        return Layout.of_folder(self.folder)

    def vector(self, name: str, start: Float) -> Float:
        """See `TaskVectors`."""
        if self._moved is None:
            return self._reader.values(name) - start
        form = FORMATS[self._reader.entry(name).dtype]
        return form.values(self._moved[name]).reshape(start.shape) - start

    def marked(self) -> list[str]:
        """See `TaskVectors`."""
        return sorted(n for n, e in self.folder.tensors.items() if is_marked(self.layout, e))

    def release(self) -> str:
        """See `TaskVectors`."""
        return release_of(self.folder, self.layout, self._reader)


class AdapterVectors(TaskVectors):
    """Of an adapter.

    Args:
        folder: its own.
        base: the model's that it is for.
    """

    tail = 8.0  # numbers of a product of few directions are of very unlike sizes

    def __init__(self, folder: ModelFolder, base: ModelFolder) -> None:
        self.folder, self._layout = folder, Layout.of_folder(base)
        self._changes = AdapterChanges(folder, base, self._layout)
        self.shapes = {name: base.shapes[name] for name in self._changes.factors}

    def __enter__(self) -> AdapterVectors:
        self._changes.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._changes.__exit__(*error)

    @property
    def layout(self) -> Layout:
        """See `TaskVectors`."""
        return self._layout

    def vector(self, name: str, start: Float) -> Float:
        """See `TaskVectors`."""
        return self._changes.change(name, start)

    def marked(self) -> list[str]:
        """See `TaskVectors`."""
        return sorted(self.shapes)

    def release(self) -> str:
        """See `TaskVectors`."""
        return self._changes.release

    def carrier(self, name: str) -> Carrier:
        """See `TaskVectors`."""
        return self._changes.carrier(name)


def task_vectors(path: str | Path, base: ModelFolder) -> TaskVectors:
    """Those of a model or of an adapter.

    Args:
        path: the folder of either, or the id of one on the Hub.
        base: the public base.

    Raises:
        UnmergeableError: no such folder, or an adapter that is not of the base.
    """
    folder = open_either(resolve(path))
    return AdapterVectors(folder, base) if is_adapter(folder.local) else ModelVectors(folder)
