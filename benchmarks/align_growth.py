"""How the cost of alignment grows with a model's size.

    python benchmarks/align_growth.py

makes synthetic Llama-shaped models of 4, 8 and 16 layers (Gaussian weights; the fine-tune is the
base plus one percent of noise), locks them without loss, aligns them in memory, reading included,
and prints a Markdown table: seconds (median of several runs, smallest and largest), seconds per
million weights, the distance to the true fine-tune in units of the task vector, and straight lines
through the medians. On a busy machine only the CPU seconds can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from llama_shapes import layer_shapes

from unmergeable.attacks.align import AlignedTensors, align_tensors
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.extras import optional
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

HIDDEN, FFN, HEADS, GROUPS, HEAD, VOCAB = 768, 2048, 12, 4, 64, 16384
TAU = 0.01
FILE = "model.safetensors"


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kind", default="lossless", choices=["lossless", "general"])
    parser.add_argument("--method", default="full")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, {options.kind} lock, method {options.method}\n")
    print("| layers | million weights | seconds | CPU seconds | s / million | residual / tau |")
    print("| --- | --- | --- | --- | --- | --- |")
    points = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as scratch:
            points.append(measure(layers, options, Path(scratch)))
    if len(points) > 1:
        size, *measured = np.array(points).T
        for name, seconds in zip(("seconds", "CPU seconds"), measured, strict=True):
            slope, start = np.polyfit(size, seconds, 1)
            unexplained = ((seconds - start - slope * size) ** 2).sum()
            fit = 1 - unexplained / ((seconds - seconds.mean()) ** 2).sum()
            print(f"\n{name} = {start:.2f} + {slope:.4f} per million weights (R2 = {fit:.3f})")


def measure(layers: int, options: argparse.Namespace, scratch: Path) -> tuple[float, float, float]:
    """Prints one row; returns millions of weights, and medians of seconds and CPU seconds."""
    make_models(layers, scratch)
    settings = {"kind": options.kind}
    protect(scratch / "expert", scratch / "locked", Key(bytes(32)), settings=settings)
    locked, base = open_folder(scratch / "locked"), open_folder(scratch / "base")
    wall, processor = [], []
    for turn in range(options.runs + 1):
        start = time.process_time()
        found = align_tensors(locked, base, method=options.method)
        if turn:  # the first turn warms the page cache
            wall.append(found.seconds)
            processor.append(time.process_time() - start)
    millions, median = found.parameters / 1e6, statistics.median(wall)
    print(
        f"| {layers} | {millions:.1f} | {median:.2f} ({min(wall):.2f} to {max(wall):.2f}) | "
        f"{statistics.median(processor):.2f} | {median / millions:.4f} | "
        f"{residual(found, scratch):.3g} |",
        flush=True,
    )
    return millions, median, statistics.median(processor)


def make_models(layers: int, folder: Path) -> None:
    """Writes `base` and `expert`, in float32."""
    layer = layer_shapes(HIDDEN, HEADS, GROUPS, HEAD, FFN)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS,
        "head_dim": HEAD, "num_hidden_layers": layers, "vocab_size": VOCAB, "dtype": "float32",
        "tie_word_embeddings": True,
    }  # fmt: skip
    random = np.random.default_rng(0)
    base = {
        name: random.normal(scale=0.02, size=shape).astype(np.float32) + (len(shape) == 1)
        for name, shape in shapes.items()
    }
    expert = {
        name: weight + random.normal(scale=0.02 * TAU, size=weight.shape).astype(np.float32)
        for name, weight in base.items()
    }
    for name, tensors in (("base", base), ("expert", expert)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        save = optional("safetensors.numpy").save_file
        save({n: x.astype(np.float32) for n, x in tensors.items()}, folder / name / FILE)


def residual(found: AlignedTensors, folder: Path) -> float:
    """Distance to the true fine-tune, in units of the task vector."""
    left = tau = 0.0
    expert, base = open_folder(folder / "expert"), open_folder(folder / "base")
    with TensorReader(expert) as true, TensorReader(base) as origin:
        for name, data in found.tensors.items():
            wanted = true.read(name).view(np.float32)
            gap, move = data.view(np.float32) - wanted, origin.read(name).view(np.float32) - wanted
            left, tau = left + float(gap @ gap), tau + float(move @ move)
    return float(np.sqrt(left / tau))


if __name__ == "__main__":
    main()
