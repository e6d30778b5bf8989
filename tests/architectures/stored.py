"""Tiny models in folders, open and locked, loaded from there: made once for a family's tests."""

from __future__ import annotations

from copy import deepcopy
from functools import cache, cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.architectures.families import Family, outputs
from tests.architectures.twin import fill, generate, places_of
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
# Model types of which transformers leaves some weights in float32, which its code then cannot run.
IN_TWO_DTYPES = {"deberta"}


class Stored:
    """A family's tiny model on disk. Who uses it leaves it as it is."""

    def __init__(self, family: Family, dtype: torch.dtype) -> None:
        self.family, self.dtype = family, dtype
        self._scratch = TemporaryDirectory(prefix="unmergeable-")
        self.folder = Path(self._scratch.name) / "open"
        family.build(dtype).save_pretrained(self.folder)
        self.locked_folder = cache(self._locked_folder)
        self.locked = cache(self._locked)

    @cached_property
    def model(self) -> nn.Module:
        """The open model, as stock transformers loads it."""
        return load(self.family, self.folder, self.dtype)

    @cached_property
    def wide(self) -> torch.Tensor:
        """What its weights compute in float32, with padding, from inputs of its own dtype."""
        inputs = self.family.inputs(self.dtype, padded=True)
        wide = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        return outputs(deepcopy(self.model).float(), wide)

    @cached_property
    def written(self) -> list[list[int]]:
        """What it generates, with its cache."""
        return generate(self.model, self.family, True)

    def _locked_folder(self, kind: str) -> Path:
        out = self.folder.with_name(kind)
        protect(self.folder, out, KEY, settings={"kind": kind, "scales": kind == "lossless"})
        return out

    def _locked(self, kind: str) -> nn.Module:
        """The locked model: the open one with the tensors of the locked folder.

        With the same config and the same names and shapes transformers does the same with both
        folders, so the second need not go through it; five families do in `test_equality`.
        """
        folders = (self.folder, self.locked_folder(kind))
        assert len({(folder / "config.json").read_bytes() for folder in folders}) == 1
        old, new = (load_file(folder / "model.safetensors") for folder in folders)
        assert [(n, w.shape, w.dtype) for n, w in old.items()] == [
            (n, w.shape, w.dtype) for n, w in new.items()
        ]
        locked = deepcopy(self.model)
        fill(locked, places_of(self.family.name), new)
        return locked


def load(family: Family, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A folder, as stock transformers loads it."""
    cls = getattr(transformers, family.model)
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model: nn.Module = cls.from_pretrained(folder, dtype=dtype, **how).eval()
    return model.to(dtype) if model.config.model_type in IN_TWO_DTYPES else model


# Tests run family by family (`conftest.py`), so a few are enough.
@lru_cache(maxsize=4)
def stored(family: Family, dtype: torch.dtype = torch.float32) -> Stored:
    """The stored model of a row of FAMILIES."""
    return Stored(family, dtype)
