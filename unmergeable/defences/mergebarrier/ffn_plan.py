"""Where a model keeps the tensors of its FFN blocks, by the names of transformers 5."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmergeable.defences.mergebarrier.calibration import Block
from unmergeable.defences.mergebarrier.taylor import Activation, activation_named
from unmergeable.defences.mergebarrier.taylor_ffn import Ffn, Unfolded
from unmergeable.errors import UnsupportedError
from unmergeable.extras import optional

if TYPE_CHECKING:
    from unmergeable.defences.mergebarrier.custom_code.modeling_mergebarrier import Family

State = MutableMapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class FfnPlan:
    """The FFN blocks of one model.

    Attributes:
        family: where such a model keeps them.
        activation: its activation.
        layers: their number.
    """

    family: Family
    activation: Activation
    layers: int

    @classmethod
    def of(cls, model_type: str, config: Mapping[str, Any]) -> FfnPlan:
        """The plan of a stock model.

        Args:
            model_type: its own.
            config: its config.json.

        Raises:
            UnsupportedError: a model type or an activation that cannot be treated, named.
            MissingExtraError: torch or transformers are not installed.
        """
        optional("torch"), optional("transformers")
        from unmergeable.defences.mergebarrier.custom_code.modeling_mergebarrier import (
            FAMILIES,
            family_of,
        )

        known = family_of(model_type, config)
        if known is None:
            raise UnsupportedError(
                f"MergeBarrier-style protection does not know the FFN layers of {model_type!r}. It "
                f"knows {', '.join(FAMILIES)}."
            )
        family, name = known
        return cls(family, activation_named(name), int(config[family.layers]))

    def block(self, layer: int, trunk: str = "") -> Block:
        """The paths of one block's layers, below a trunk such as "model."."""
        names = (self.family.up, self.family.down, self.family.carried)
        up, down, carried = (name and trunk + name.format(layer) for name in names)
        return Block(up, down, carried)

    def trunk(self, names: Mapping[str, Any]) -> str:
        """What stands before the FFN layers' paths in a folder's tensor names."""
        tail = self.family.up.format(0) + ".weight"
        found = next((name for name in names if name.endswith(tail)), tail)
        return found.removesuffix(tail)

    def take(self, state: State, layer: int) -> Ffn:
        """One block's numbers, float64, matrices as (out, in)."""
        block = self.block(layer, self.trunk(state))

        def matrix(path: str) -> npt.NDArray[np.float64]:
            stored = state[f"{path}.weight"].astype(np.float64)
            return stored.T if self.family.transposed else stored

        def vector(path: str) -> npt.NDArray[np.float64] | None:
            found = state.get(f"{path}.bias")
            return None if found is None else found.astype(np.float64)

        up, bias = matrix(block.up), vector(block.up)
        return Ffn(
            up,
            np.zeros(len(up)) if bias is None else bias,
            matrix(block.down),
            vector(block.down),
            matrix(block.carried) if block.carried else None,
            vector(block.carried) if block.carried else None,
        )

    def put(self, state: State, layer: int, made: Unfolded) -> None:
        """Puts an unfolded block in the place of the stock one."""
        block = self.block(layer, self.trunk(state))
        places = {
            "up": f"{block.up}.weight",
            "up_bias": f"{block.up}.bias",
            "limit": f"{block.up}.limit",
            "down": f"{block.down}.weight",
            "down_bias": f"{block.down}.bias",
            "terms": f"{block.down}.terms",
            "carried": f"{block.carried}.weight",
            "carried_bias": f"{block.carried}.bias",
        }
        for role, tensor in made.tensors.items():
            flip = self.family.transposed and role in ("up", "down", "carried")
            state[places[role]] = np.ascontiguousarray(tensor.T if flip else tensor)
