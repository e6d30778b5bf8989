"""Merging in memory against mergekit's own run on disk: the same models, methods and parameters.

    python benchmarks/merge_in_memory.py [--runs 3]

merges the demonstration's two experts of SmolLM2 (made first if they are not in the cache) and
prints a Markdown table: medians with the spread. "in memory" is what an audit does for each
candidate: the models are loaded, and the merge stays in memory. "with loading" reads the models
first, as one who merges once would have to.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.demo.run import OWNER, PEER
from unmergeable.bench.zoo.smollm2 import smollm2
from unmergeable.merging.mergekit_bridge import merge_state_dicts
from unmergeable.models.weights import Weights
from unmergeable.training.experts import expert

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "task_arithmetic": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.5},
    "dare_ties": {"weight": 1.0, "density": 0.5},
    "breadcrumbs": {"weight": 1.0, "density": 0.9, "gamma": 0.01},
    "model_stock": {},
    "karcher": {},
}
BASELESS = ("linear", "karcher")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    base = smollm2()
    experts = [expert(base, glosses(), OWNER), expert(base, spam(), PEER)]
    loaded = [Weights.read(folder).tensors for folder in (base, *experts)]
    print("| method | in memory, s | with loading, s | mergekit on disk, s | disk / in memory |")
    print("| --- | --- | --- | --- | --- |")
    for name, parameters in METHODS.items():
        with_base = name not in BASELESS
        jobs: dict[str, Callable[[], Any]] = {
            "memory": lambda n=name, p=parameters, b=with_base: in_memory(n, p, b, loaded),
            "loading": lambda n=name, p=parameters, b=with_base: in_memory(
                n, p, b, [Weights.read(folder).tensors for folder in (base, *experts)]
            ),
            "disk": lambda n=name, p=parameters, b=with_base: on_disk(n, p, b, base, experts),
        }
        times: dict[str, list[float]] = {job: [] for job in jobs}
        for run in range(runs + 1):  # the first one warms the caches and is not counted
            for job, work in jobs.items():
                start = time.perf_counter()
                work()
                if run:
                    times[job].append(time.perf_counter() - start)
        ratios = [d / m for d, m in zip(times["disk"], times["memory"], strict=True)]
        cells = [cell(times[job]) for job in jobs]
        print(f"| {name} | {' | '.join(cells)} | {cell(ratios)} |", flush=True)


def in_memory(name: str, parameters: dict[str, Any], with_base: bool, models: list[Any]) -> None:
    """One merge as an audit does it."""
    base, *experts = models
    spread = {key: [value] * len(experts) for key, value in parameters.items()}
    merge_state_dicts(experts, name, base=base if with_base else None, parameters=spread)


def on_disk(
    name: str, parameters: dict[str, Any], with_base: bool, base: Path, experts: list[Path]
) -> None:
    """The same merge by mergekit's own runner, into a temporary folder."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    models = [{"model": str(folder), "parameters": parameters} for folder in experts]
    document: dict[str, Any] = {"merge_method": name, "dtype": "float32", "models": models}
    if with_base:
        document["base_model"] = str(base)
    with tempfile.TemporaryDirectory() as scratch:
        run_merge(
            MergeConfiguration.model_validate(document),
            scratch,
            MergeOptions(write_model_card=False, copy_tokenizer=False, quiet=True),
        )


def cell(values: list[float]) -> str:
    """Median with the smallest and the largest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
