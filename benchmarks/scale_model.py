"""What locking costs at any size: a model of it, fitted to runs of this machine.

    python benchmarks/scale_model.py --write

locks synthetic Llama-shaped folders of several sizes, lossless and general, on one thread and on
all processors, and writes them past the page cache for comparison; fits the model of
`docs/scale.md` to what it measured; tries it on the largest size after fitting it to the others;
and predicts models that do not fit here. With --write the tables go between the markers of
docs/scale.md. About ten minutes on two processors; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_folder import make_model
from scale_fit import MODELS, Fit, Machine, Run, errors, fit, general_flops, predicted
from timed_command import HEAD, Job, in_turn, line, timed

from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.markdown_sections import put

GUIDE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
KINDS = ("lossless", "general")
# What the disk takes, past the page cache, whose memory may cost more than the disk.
WRITE = """
mkdir "$2" && for file in "$1"/*.safetensors; do
    dd if="$file" of="$2/${file##*/}" bs=32M oflag=direct status=none || exit 1
done
"""


def measure(
    options: argparse.Namespace, scratch: Path
) -> tuple[list[Run], list[tuple[float, float]]]:
    """Times every kind and number of workers at every size; plain writes, too."""
    key = scratch / "key"
    tool = [sys.executable, "-m", "unmergeable"]
    timed([*tool, "keygen", str(key)])
    runs: list[Run] = []
    writes: list[tuple[float, float]] = []
    for wanted in options.gigabytes:
        model, out = scratch / "model", scratch / "out"
        size = make_model(model, wanted) / 1e9
        config = open_folder(model).config
        flops = config["num_hidden_layers"] * general_flops(
            config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
        )
        plain = ["sh", "-c", WRITE, "sh", str(model), str(out)]
        jobs = [Job("plain write", plain, out, (model,))]
        chosen = {f"{kind}, {n} at a time": (kind, n) for kind in KINDS for n in options.workers}
        for name, (kind, workers) in chosen.items():
            command = [*tool, "protect", str(model), str(out), "--key", str(key)]
            command += ["--set", f"kind={kind}", "--workers", str(workers)]
            jobs.append(Job(name, command, out, (model,)))
        done = in_turn(jobs, options.runs, memory=int(1e9 * (size + 1)))
        print(f"{size:.2f} GB\n{HEAD}", file=sys.stderr)
        for name, found in done.items():
            print(line(name, found, done["plain write"]), file=sys.stderr)
        writes += [(size, run.wall) for run in done["plain write"]]
        for name, (kind, workers) in chosen.items():
            work = flops / 1e9 if kind == "general" else 0.0
            runs += [Run(kind, workers, size, work, run.wall, run.cpu) for run in done[name]]
        shutil.rmtree(model)
    return runs, writes


def tables(fitted: Fit, runs: list[Run], held_out: list[float], options: argparse.Namespace) -> str:
    """The document's tables, in Markdown."""
    largest = max(abs(error) for error in errors(fitted, runs))
    sizes = ", ".join(f"{size:.1f}" for size in sorted({run.gigabytes for run in runs}))
    lines = [
        f"Measured on {platform.machine()}, {os.cpu_count()} processors, {options.note}: folders "
        f"of {sizes} GB, {options.runs} runs each after a warm-up.",
        "",
        "| figure | value |",
        "| --- | --- |",
        f"| start of any run | {fitted.start:.2f} s |",
        f"| processor seconds a GB, either lock | {fitted.per_gb:.2f} |",
        f"| processor seconds a GFLOP more, general lock | {fitted.per_gigaflop:.3f} |",
        *(
            f"| progress a processor makes, {n} worker{'s' * (n > 1)} | {share:.2f} |"
            for n, share in fitted.share.items()
        ),
        f"| writing past the page cache, seconds a GB | {fitted.disk:.2f} |",
        f"| largest error of the fit, wall time | {largest:.0%} |",
        f"| fitted without the largest size, its error there | "
        f"{min(held_out):+.0%} to {max(held_out):+.0%} |",
        "",
        "| lock | workers | GB | measured, s | model, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, workers, size in sorted({(r.kind, r.workers, r.gigabytes) for r in runs}):
        same = [r for r in runs if (r.kind, r.workers, r.gigabytes) == (kind, workers, size)]
        walls = [run.wall for run in same]
        model = fitted.wall(workers, size, same[0].gigaflops)
        lines.append(
            f"| {kind} | {workers} | {size:.1f} | {np.median(walls):.1f} ({min(walls):.1f} to "
            f"{max(walls):.1f}) | {model:.1f} |"
        )
    count = max(fitted.share)
    machines = [
        Machine(f"this one: {count} processors", count, fitted.disk),
        Machine("32 processors, 3 GB/s", 32, 1 / 3),
        Machine("8 of these, a disk each", 32, 1 / 3, 8),
        Machine("8 of these, one store of 10 GB/s", 32, 1 / 3, 8, 1 / 10),
    ]
    head = " | ".join(machine.name for machine in machines)
    lines += [
        "",
        f"| model | GB | memory at most, GB | lock | {head} |",
        "| --- | --- | --- | --- |" + " --- |" * len(machines),
    ]
    for name, shape in MODELS.items():
        memory = shape.memory / 1e9
        for kind in KINDS:
            times = " | ".join(_words(predicted(fitted, shape, kind, m)) for m in machines)
            lines.append(f"| {name} | {shape.gigabytes:.0f} | {memory:.1f} | {kind} | {times} |")
    return "\n".join(lines)


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Measures, fits, predicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--note", default="nothing else running", help="for the text")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    parser.add_argument("--save", type=Path, help="keep the measured runs as JSON")
    parser.add_argument("--load", type=Path, help="use kept runs instead of measuring")
    options = parser.parse_args()
    if options.load:
        kept = json.loads(options.load.read_text())
        runs, writes = [Run(*run) for run in kept["runs"]], kept["writes"]
        options.note, options.runs = kept["note"], kept["turns"]
    else:
        scratch = Path(tempfile.mkdtemp(prefix="unmergeable-bench-", dir=options.where))
        try:
            runs, writes = measure(options, scratch)
        finally:
            shutil.rmtree(scratch)
    if options.save:
        kept = {"runs": runs, "writes": writes}
        options.save.write_text(json.dumps(kept | {"note": options.note, "turns": options.runs}))
    if len({run.gigabytes for run in runs}) < 2:
        raise SystemExit("all folders came out in one size: whole layers are 0.44 GB each.")
    top = max(run.gigabytes for run in runs)
    below = [run for run in runs if run.gigabytes < top]
    others = fit(below, [write for write in writes if write[0] < top])
    held_out = errors(others, [run for run in runs if run.gigabytes == top])
    text = tables(fit(runs, writes), runs, held_out, options)
    print(text)
    if options.write:
        GUIDE.write_text(put(GUIDE.read_text("utf-8"), BEGIN, END, text), "utf-8")


if __name__ == "__main__":
    main()
