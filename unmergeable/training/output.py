"""What training leaves: a model folder as the base's, or an adapter folder as PEFT's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unmergeable.checkpoint.folder import CONFIG, INDEX, ModelFolder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import PrecisionError
from unmergeable.extras import optional
from unmergeable.gauge.memory import Bytes
from unmergeable.models.weights import stored

if TYPE_CHECKING:
    import torch


def write_model(
    base: ModelFolder, module: torch.nn.Module, names: Mapping[str, str], staging: Staging
) -> None:
    """Writes the weights where the base's stood: its names, order, shards and dtypes.

    Tensors that the module does not have, such as a head that was left out of training, stay as
    they are in the base.

    Args:
        base: the base's folder.
        module: what was trained.
        names: of the base's tensors, by the module's.
        staging: where to.

    Raises:
        PrecisionError: a weight that is not finite, or too large for the base's dtype.
    """
    tensors = module.state_dict()
    own = {name: tensors[key] for key, name in names.items()}

    def change(entry: TensorEntry, data: Bytes) -> Bytes:
        import torch

        before = stored(data, entry)
        if entry.name not in own or not before.is_floating_point():
            return data
        after = own[entry.name].detach().cpu().to(before.dtype).contiguous()
        if not torch.isfinite(after.float()).all():
            raise PrecisionError(
                f"a weight is not finite in {entry.dtype}, the base's dtype: training diverged."
            )
        return after.reshape(-1).view(torch.uint8).numpy()  # type: ignore[no-any-return]

    rewrite(base, staging, change)
    _copy(base, staging, same=True)


def write_with_classifier(base: ModelFolder, module: Any, staging: Staging) -> None:
    """Writes a model with a classifier that the base lacks, in the dtype of most of the base."""
    sizes: dict[str, int] = {}
    for entry in base.tensors.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size
    most = max(sizes, key=lambda name: sizes[name])
    torch = optional("torch")
    dtype = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}.get(most)
    module.to(dtype or torch.float32).save_pretrained(staging.path)
    _copy(base, staging, same=False)


def write_adapter(base: ModelFolder, module: Any, name: str, staging: Staging) -> None:
    """Writes an adapter folder.

    Args:
        base: the base's folder, whose tokenizer goes along.
        module: a PEFT model.
        name: of the base, as users find it.
        staging: where to.
    """
    for config in module.peft_config.values():
        config.base_model_name_or_path = name
    module.save_pretrained(staging.path)
    (staging.path / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
    _copy(base, staging, same=False)


def write_history(staging: Staging, document: Mapping[str, Any]) -> bool:
    """Writes training.json and, where matplotlib is installed, training.png; says whether it is."""
    from importlib.util import find_spec

    text = json.dumps(document, indent=2, ensure_ascii=False)
    staging.write_file("training.json", text.encode())
    if find_spec("matplotlib") is None:
        return False
    from unmergeable.training.plot import plot

    staging.write_file("training.png", plot(document))
    return True


def _copy(base: ModelFolder, staging: Staging, *, same: bool) -> None:
    """Copies tokenizer, processor and licence; a model card tells of the base, and stays there.

    Args:
        base: from where.
        staging: to where.
        same: whether the output has the base's tensors: then config and index fit it too.
    """
    for name in base.companions:
        if name.endswith(".md") or name.startswith("training."):
            continue
        if not same and name in (CONFIG, INDEX, "generation_config.json"):
            continue
        staging.write_file(name, base.read_companion(name))
