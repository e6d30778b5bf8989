"""What locking costs, against copying the same folder.

Makes a synthetic Llama-shaped bfloat16 folder, then times `cp -r` and `unmergeable protect` of it
in turn: wall time until the data is on the disk, processor time, and peak memory. Prints medians
and the ratio within each pair. Run it with `make bench`, or for other sizes and places:

    python benchmarks/copy_speed.py --gigabytes 4 --runs 3 --where /tmp --kind lossless general
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llama_shapes import layer_shapes

HIDDEN, FFN, HEADS, GROUPS, HEAD, VOCAB = 4096, 14336, 32, 8, 128, 32000
SHARD = 2_000_000_000


@dataclass(frozen=True)
class Run:
    """One timed command: seconds until synced, processor seconds, peak resident bytes."""

    wall: float
    cpu: float
    peak: int


def make_model(folder: Path, gigabytes: float) -> int:
    """Writes a folder with 8B-like tensor shapes; returns its bytes."""
    layer = layer_shapes(HIDDEN, HEADS, GROUPS, HEAD, FFN)
    ends = 2 * VOCAB * HIDDEN + HIDDEN
    size = sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, round((gigabytes * 5e8 - ends) / size))
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,),
               "lm_head.weight": (VOCAB, HIDDEN)}  # fmt: skip
    for number in range(layers):
        tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in sorted(tensors.items()):
        if filled > SHARD:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * int(np.prod(shape))
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    # Weights of about the size that trained ones have; one block of them, written again and again.
    block = (random.normal(size=1 << 24) * 0.02).astype(np.float32).view(np.uint32) >> 16
    bits = block.astype(np.uint16)
    where, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, start = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shard.items():
            stop = start + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
            where[name], start = file, stop
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for shape in shard.values():
                left = int(np.prod(shape))
                while left:
                    out.write(bits[:left].tobytes())
                    left -= min(left, len(bits))
        total += start
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS,
        "head_dim": HEAD, "num_hidden_layers": layers, "vocab_size": VOCAB, "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return total


def timed(command: list[str]) -> Run:
    """Runs a command and waits until what it wrote is on the disk."""
    os.sync()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    os.sync()
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--kind", nargs="+", default=["lossless", "general"])
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="unmergeable-bench-", dir=options.where))
    try:
        bench(options, scratch)
    finally:
        shutil.rmtree(scratch)


def bench(options: argparse.Namespace, scratch: Path) -> None:
    """Times the commands in turn and prints medians and ratios."""
    model, out, key = scratch / "model", scratch / "out", scratch / "key"
    size = make_model(model, options.gigabytes)
    tool = [sys.executable, "-m", "unmergeable"]
    timed([*tool, "keygen", str(key)])
    jobs = {"cp -r": ["cp", "-r", str(model), str(out)]}
    for kind in options.kind:
        jobs[f"protect, {kind}"] = [
            *tool, "protect", str(model), str(out), "--key", str(key), "--set", f"kind={kind}"
        ]  # fmt: skip
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for turn in range(options.runs + 1):
        for name, command in jobs.items():
            run = timed(command)
            shutil.rmtree(out)
            if turn:  # the first turn warms the page cache
                runs[name].append(run)
    copy = runs["cp -r"]
    print(
        f"{size / 1e9:.2f} GB bfloat16, {platform.machine()}, {os.cpu_count()} cores; medians of "
        f"{options.runs} runs after one warm-up, until synced (min to max)"
    )
    print(f"{'job':<20} {'wall s':>24} {'CPU s':>7} {'peak MB':>8} {'wall / cp':>22}")
    for name, done in runs.items():
        ratios = [run.wall / base.wall for run, base in zip(done, copy, strict=True)]
        peak = max(run.peak for run in done) / 1e6
        cpu = statistics.median(run.cpu for run in done)
        wall = spread([run.wall for run in done])
        print(f"{name:<20} {wall:>24} {cpu:>7.1f} {peak:>8.0f} {spread(ratios):>22}")


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
