"""How far WUDI-Merging's descent comes in fewer steps than its paper's 300, and what a step takes.

    python benchmarks/wudi_steps.py

merges the demonstration's two experts of SmolLM2-135M-Instruct, the linear layers of one block
alone, and prints a Markdown table: for each number of steps and rate, the interference that is left
relative to where the descent starts (the sum of the task vectors), and seconds a step for as many
numbers as the whole model's linear layers have.
"""

from __future__ import annotations

import argparse
import time

import torch
from safetensors import safe_open

from unmergeable.architectures.layout import Layout
from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.demo.run import OWNER, PEER
from unmergeable.bench.zoo.smollm2 import smollm2
from unmergeable.checkpoint.folder import open_folder
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.wudi import interference, least_interference
from unmergeable.training.experts import expert

PAIRS = ((300, 1e-5), (60, 1e-5), (60, 5e-5), (30, 5e-5), (30, 1e-4))
BLOCKS = (15,)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", nargs="+", type=int, default=list(BLOCKS))
    options = parser.parse_args()
    base = smollm2()
    folder = open_folder(base)
    linears = linear_layers(Layout.of(folder.config, folder.shapes))
    names = [n for n in linears if any(f".layers.{block}." in n for block in options.blocks)]
    experts = [expert(base, glosses(), OWNER), expert(base, spam(), PEER)]
    start = read(base, names)
    changes = [
        {
            name: linears[name].matrix(tensor - start[name])
            for name, tensor in read(one, names).items()
        }
        for one in experts
    ]
    layers = [[change[name] for change in changes] for name in names]
    first = sum(interference(deltas[0] + deltas[1], deltas) for deltas in layers)
    whole = sum(folder.shapes[name][0] * folder.shapes[name][1] for name in linears)
    share = sum(deltas[0].numel() for deltas in layers) / whole
    print(
        f"{len(names)} linear layers, {share:.1%} of the {whole / 1e6:.0f} million numbers of all\n"
    )
    print("| steps | rate | interference left | seconds a step, all layers |")
    print("| --- | --- | --- | --- |")
    for steps, rate in PAIRS:
        begun = time.perf_counter()
        found = [least_interference(deltas, steps, rate) for deltas in layers]
        seconds = (time.perf_counter() - begun) / steps / share
        left = sum(interference(one, deltas) for one, deltas in zip(found, layers, strict=True))
        print(f"| {steps} | {rate:g} | {left / first:.4f} | {seconds:.2f} |", flush=True)


def read(folder, names: list[str]) -> dict[str, torch.Tensor]:
    """Some tensors of a folder, float32."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).float() for name in names}


if __name__ == "__main__":
    main()
