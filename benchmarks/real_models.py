"""Locks, verifies and unlocks the three real models that packages carry, with both kinds of lock.

    python benchmarks/real_models.py

prints one row per model and kind: the largest output difference relative to the largest output, the
mean KL divergence and the share of equal top choices where the model has logits, and whether
unlocking gave the same bits. Models are made once, in the cache folder.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import unmergeable
from unmergeable.bench.zoo.dinov2 import dinov2
from unmergeable.bench.zoo.minilm import minilm
from unmergeable.bench.zoo.smollm2 import smollm2

MODELS = {
    "SmolLM2-135M-Instruct (Llama)": smollm2,
    "all-MiniLM-L6-v2 (BERT)": minilm,
    "DINOv2-small-derived (ViT)": dinov2,
}


def main() -> None:
    """Prints the table."""
    print("| model | lock | largest difference | mean KL | same top choice | unlocked | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, make in MODELS.items():
        folder = make()
        for kind in ("lossless", "general"):
            with tempfile.TemporaryDirectory() as scratch:
                print(row(name, folder, kind, Path(scratch)), flush=True)


def row(name: str, folder: Path, kind: str, scratch: Path) -> str:
    """Measures one model under one kind of lock."""
    key = unmergeable.keygen(scratch / "key")
    start = time.perf_counter()
    unmergeable.protect(folder, scratch / "locked", key, settings={"kind": kind})
    seconds = time.perf_counter() - start
    report = unmergeable.verify(folder, scratch / "locked", key=key)
    again = unmergeable.unlock(scratch / "locked", scratch / "again", key)
    out = report.outputs
    if not report.same:
        raise SystemExit(f"{name}, {kind}: the models differ: {report}")
    kl = "-" if out.mean_kl is None else f"{out.mean_kl:.1e} nats"
    top = "-" if out.top1_agreement is None else f"{out.top1_agreement:.1%}"
    bits = "same bits" if again.exact else f"within {report.weights.max_difference:.1e}"
    return f"| {name} | {kind} | {out.relative:.1e} | {kl} | {top} | {bits} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
