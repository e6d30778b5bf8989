"""Tiny models under MergeBarrier-style protection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.architectures.families import FAMILIES, Family
from tests.tiny import write_safetensors
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mergebarrier.custom_code import modeling_mergebarrier
from unmergeable.defences.mergebarrier.mergebarrier import Conversion, convert
from unmergeable.gauge.floats import FORMATS
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))
BY_NAME = {family.name: family for family in FAMILIES}
# One of each kind of FFN and of each place where one is kept.
CHOSEN = [
    BY_NAME[name]
    for name in (
        "llama-tied", "llama-biased", "llama-classifier", "mistral", "qwen2", "gpt2",
        "gpt2-bare", "bert-masked", "bert-bare", "vit-classifier", "dinov2-bare", "dinov2-gated",
    )
]  # fmt: skip
EXPANDED = ("gate_proj", "c_fc", "fc1", "intermediate.dense")


def stock(family: Family, folder: Path, narrow: float = 0.15, dtype=torch.float32) -> Any:
    """A stock model in a folder, its pre-activations scaled to where polynomials are good."""
    model = family.build(torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in EXPANDED):
                weight *= narrow
    model.to(dtype).save_pretrained(folder)
    return model


def values_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, float64."""
    opened = open_folder(folder)
    with TensorReader(opened) as reader:
        return {
            name: FORMATS[entry.dtype].values(reader.read(name)).reshape(entry.shape)
            for name, entry in opened.tensors.items()
        }


def layout_of(folder: Path) -> Layout:
    opened = open_folder(folder)
    return Layout.of(opened.config, opened.shapes)


def converted(family: Family, folder: Path, key: Key = KEY, values=None, **given) -> Conversion:
    """A stock folder, protected, with what the family is fed as calibration."""
    values = values or values_of(folder)
    data = [family.inputs(padded=not family.image)]
    return convert(open_folder(folder), layout_of(folder), key, given, data, values.__getitem__)


def write(made: Conversion, out: Path) -> Path:
    out.mkdir()
    write_safetensors(out / "model.safetensors", made.tensors, {"format": "pt"})
    (out / "config.json").write_text(json.dumps(made.config))
    for name, content in made.files.items():
        (out / name).write_bytes(content)
    return out


def loaded(folder: Path, **options) -> Any:
    """A protected folder's model, by the package's own copy of its code."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(modeling_mergebarrier, name)
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model.eval()


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).norm() / two.norm())
