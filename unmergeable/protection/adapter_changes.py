"""What an adapter changes: one matrix for each linear layer, read one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.adapter_config import scale_of
from unmergeable.checkpoint.adapter_folder import parse_name
from unmergeable.checkpoint.digest import digest_of, weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.chain import Chain
from unmergeable.defences.mark import is_marked, root_inverse
from unmergeable.gauge.floats import FORMATS, Float
from unmergeable.protection.adapter_places import AdapterPlaces


@dataclass(frozen=True)
class Factors:
    """The tensors that change one weight by `scale` B A.

    Attributes:
        a: the name of A, which has shape (r, in).
        b: the name of B, which has shape (out, r).
        scale: what PEFT multiplies B A by.
        transposed: whether the weight is stored (in, out).
        lengths: the name of DoRA's lengths of rows, shape (out,); None without DoRA.
    """

    a: str
    b: str
    scale: float
    transposed: bool
    lengths: str | None


class AdapterChanges:
    """The changes that an adapter makes to the matrices of a model's layers; a context manager.

    Embeddings, heads, biases, whole modules and single tokens are left out.

    Args:
        adapter: its folder.
        model: of the model that it is for.
        layout: of the model.

    Attributes:
        factors: by the name of the weight, in the model's folder.
        reader: of the adapter's tensors.

    Raises:
        InputError: a tensor that the model has no place for, or that is of another shape.
        UnsupportedError: as `AdapterPlaces`.
    """

    def __init__(self, adapter: ModelFolder, model: ModelFolder, layout: Layout) -> None:
        places, tensors = AdapterPlaces(adapter, model, Chain(layout, ())), adapter.tensors
        self.reader = TensorReader(adapter)
        self.factors: dict[str, Factors] = {}
        for name, entry in tensors.items():
            place, weight = places[name], model.tensors.get(places[name].weight)
            if place.part != "lora_A.weight" or len(entry.shape) != 2 or weight is None:
                continue
            b = places.find(place.weight, "lora_B.weight")
            if b is None or not is_marked(layout, weight) or len(weight.shape) != 2:
                continue
            if not {entry.dtype, tensors[b].dtype} <= FORMATS.keys():
                continue
            scale = scale_of(adapter.config, parse_name(name).module, entry.shape[0])
            parts = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
            found = (places.find(place.weight, part) for part in parts)
            lengths = next((one for one in found if one is not None), None)
            self.factors[place.weight] = Factors(name, b, scale, place.transposed, lengths)

    def __enter__(self) -> AdapterChanges:
        self.reader.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.reader.__exit__(*error)

    @property
    def release(self) -> str:
        """The digest that the adapter's marks are drawn for: of all A and B."""
        names = [name for one in self.factors.values() for name in (one.a, one.b)]
        entries = {name: self.reader.entry(name) for name in names}
        return weights_digest(entries, {n: digest_of(self.reader.read(n).data) for n in names})

    def change(self, name: str, weight: Float) -> Float:
        """What the adapter adds to a weight, in the weight's shape.

        Args:
            name: of the weight.
            weight: its numbers in the model; DoRA alone needs them.
        """
        one, (a, b) = self.factors[name], self.parts(name)
        with np.errstate(all="ignore"):
            product = one.scale * (b @ a)
            product = product.T if one.transposed else product
            if one.lengths is None:
                return np.asarray(product)
            lengths, axis = self.reader.values(one.lengths), 0 if one.transposed else 1
            moved = weight + product
            factor = lengths / np.linalg.norm(moved, axis=axis)
            return np.asarray(moved * np.expand_dims(factor, axis) - weight)

    def parts(self, name: str) -> tuple[Float, Float]:
        """A and B of a weight, shapes (r, in) and (out, r)."""
        one = self.factors[name]
        return self.reader.values(one.a), self.reader.values(one.b)

    def carrier(self, name: str) -> Callable[[Float], Float]:
        """What takes a change of a weight to where its mark is.

        Returns:
            A linear map, from numbers in the weight's order to one number for each of B, shape
            (out * r,): the change in the coordinates that the rows of A span.
        """
        one, a = self.factors[name], self.parts(name)[0]
        rows = root_inverse(a) @ a

        def carried(change: Float) -> Float:
            shape = (a.shape[1], -1) if one.transposed else (-1, a.shape[1])
            matrix = change.reshape(shape)
            return np.asarray(((matrix.T if one.transposed else matrix) @ rows.T).reshape(-1))

        return carried
