"""Tensors that are one in the model, and that some folders store more than once or by another name.

A head tied to the embeddings is stored by some trainers and left out by others. Both are the same
model, as long as what is stored twice is equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmergeable.checkpoint.reader import TensorReader
from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.merging.config_differences import as_transformers

_PIECE = 1 << 26


@dataclass(frozen=True)
class TiedWeights:
    """Names that mean one tensor.

    Attributes:
        table: for each of them, the one that stands for all.
    """

    table: Mapping[str, str]

    def __call__(self, name: str) -> str:
        """The name that stands for a tensor."""
        return self.table.get(name, name)

    def stored(self, reader: TensorReader, name: str) -> str:
        """The name under which a folder has a tensor."""
        if name in reader:
            return name
        same = (one for one in self.table if self(one) == self(name) and one in reader)
        return next(same, name)


def tied_weights(leader: TensorReader, readers: Sequence[TensorReader]) -> TiedWeights:
    """Finds what is tied in some models, as transformers ties it.

    Args:
        leader: of the model whose config and tensors' names the merge gets.
        readers: of all models, that one included.

    Raises:
        InputError: a model stores a tied tensor that differs from its table, and another one
            stores the table alone.
    """
    groups: dict[str, list[str]] = {}
    for name, source in _ties(leader.folder.config).items():
        groups.setdefault(source, [source]).append(name)
    table: dict[str, str] = {}
    for names in groups.values():
        stored = [[name for name in names if name in reader] for reader in readers]
        if not all(stored):
            continue  # not this model's names, or a tensor that is missing
        odd = [
            (reader, kept[0], name)
            for reader, kept in zip(readers, stored, strict=True)
            for name in kept[1:]
            if not _equal(reader, kept[0], name)
        ]
        if not odd:
            table |= dict.fromkeys(names, next(name for name in names if name in leader))
        elif any(kept != stored[0] for kept in stored):
            reader, first, name = odd[0]
            raise InputError(
                f"{reader.folder.path} stores {name} besides {first}, with other values, though "
                "tie_word_embeddings says that they are one tensor, and not all of the models "
                "store it. Load the model with transformers, set tie_word_embeddings to what is "
                "true, and save it again."
            )
    return TiedWeights(table)


def _ties(config: Mapping[str, Any]) -> dict[str, str]:
    """Each tied tensor of a model, with the one that it is tied to."""
    read = as_transformers(config)
    names = config.get("architectures")
    if read is None or not getattr(read, "tie_word_embeddings", False):
        return {}
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return {}
    transformers = optional("transformers")
    try:
        model_class = getattr(transformers, names[0])
        prefix = model_class.base_model_prefix
        trunk = transformers.MODEL_MAPPING.get(type(read), None)
        ties: dict[str, str] = dict(model_class._tied_weights_keys or {})
        if trunk not in (None, model_class) and isinstance(trunk._tied_weights_keys, dict):
            inner = trunk._tied_weights_keys.items()
            ties = {f"{prefix}.{name}": f"{prefix}.{source}" for name, source in inner} | ties
    except Exception:  # no class of a model, or one that is not installed whole
        return {}
    return {name: ties.get(source) or source for name, source in ties.items()}


def _equal(reader: TensorReader, first: str, other: str) -> bool:
    """Whether two tensors of a folder are the same, bit for bit."""
    one, two = reader.entry(first), reader.entry(other)
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return False
    for start in range(0, one.size, _PIECE):
        end = min(start + _PIECE, one.size)
        if not np.array_equal(reader.piece(first, start, end), reader.piece(other, start, end)):
            return False
    return True
