"""Stock folders out of folders whose architecture a defence changed: what an attack starts with."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import CONFIG, SINGLE, ModelFolder, open_folder
from unmergeable.defences.mergebarrier.stock_names import UNUSED
from unmergeable.extras import optional

if TYPE_CHECKING:
    import torch

SECTION = "mergebarrier"


def is_rebuilt(folder: ModelFolder) -> bool:
    """Whether a defence changed the architecture, so that no merge tool takes it as it is."""
    return SECTION in folder.config


@contextmanager
def as_stock(folder: ModelFolder, base: ModelFolder) -> Iterator[ModelFolder]:
    """A folder as it is; or, of one that was rebuilt, the stock model that it hides.

    Args:
        folder: the model under attack.
        base: its public base, whose spelling of tensor names the stock model gets.

    Raises:
        InputError: a rebuilt folder that cannot be unfolded.
    """
    if not is_rebuilt(folder):
        yield folder
        return
    from unmergeable.attacks.unfold import unfold

    library = optional("safetensors.torch")
    state: dict[str, torch.Tensor] = {}
    for header in folder.files:
        state |= library.load_file(folder.local / header.path.name)
    found = unfold(state, folder.config)
    with tempfile.TemporaryDirectory(prefix="unmergeable-") as scratch:
        place = Path(scratch)
        for name in folder.companions:
            if name != CONFIG and not name.endswith(".py"):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.local / name, place / name)
        (place / CONFIG).write_text(json.dumps(found.config, indent=2) + "\n", "utf-8")
        tensors = _spelled(found.tensors, Layout.of(base.config, base.shapes))
        tensors = _buffers(base, skip=tensors.keys()) | tensors
        library.save_file(tensors, place / SINGLE, metadata={"format": "pt"})
        del state, tensors, found
        yield open_folder(place)


def _buffers(base: ModelFolder, skip: Collection[str]) -> dict[str, torch.Tensor]:
    """What the base's folder holds and every model computes for itself: merge tools ask for it."""
    names = [name for name in base.tensors if name.endswith(UNUSED) and name not in skip]
    found: dict[str, torch.Tensor] = {}
    for header in base.files if names else ():
        with optional("safetensors").safe_open(base.local / header.path.name, "pt") as file:
            found |= {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118 (no mapping)
    return found


def _spelled(state: dict[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    """The tensors by the names that a base's layout has for them."""
    return {layout.stored_name(name) or name: x.contiguous() for name, x in state.items()}
