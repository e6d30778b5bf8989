"""What `unmergeable align` costs on models of real sizes: seconds, memory, and what it leaves.

    python benchmarks/align_scale.py --write

makes synthetic folders of a 135M model's sizes, and of an 8B model's with as many layers and words
as the disk has room for; locks the fine-tune, aligns it to the base by the command, and prints a
Markdown table: seconds of the fit and of the whole command until its output is on the disk,
processor seconds, peak memory, and the distance to the true fine-tune in units of the task vector.
From several folders it predicts the whole model, by a straight line in layers and words. With
--write the tables go between the markers of docs/scale.md. Folders need three times their size on
the disk, 9 GB as they are. Nothing else should run.

    python benchmarks/align_scale.py --only 8B --folders 2:8000 4:8000

takes one model, and other numbers of layers and words.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llama_pair import SIZES, Sizes
from scale_model import GUIDE
from timed_command import bring_to_memory, spread, timed, warm_memory

from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.markdown_sections import put

BEGIN, END = "<!-- alignment: begin -->", "<!-- alignment: end -->"
# Models, locks, and folders of LAYERS:WORDS; the whole model if there are none.
PLANS: list[tuple[str, str, list[str]]] = [
    ("135M", "lossless", []),
    ("135M", "general", []),
    ("8B", "lossless", ["2:8000", "4:8000", "6:8000", "2:96000"]),
]
MEMORY = 6 << 30  # bytes that an alignment and its output may fill
MAKER = Path(__file__).parent / "llama_pair.py"


class Measured(NamedTuple):
    """Medians of one folder's runs."""

    sizes: Sizes
    fit: float
    command: float
    peak: float


def main() -> None:
    """Measures every folder, and predicts whole models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(SIZES), help="one of the models")
    parser.add_argument("--folders", nargs="+", metavar="LAYERS:WORDS", default=[])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--where", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--note", default="nothing else running", help="for the text")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    options = parser.parse_args()
    text = [
        f"Measured on {platform.machine()}, {len(os.sched_getaffinity(0))} processors, "
        f"{options.note}; medians of {options.runs} runs after a warm-up.",
        "",
        "| model | lock | layers | words | GB | fit, s | command until synced, s | CPU s | "
        "peak, GB | residual |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines: list[str] = []
    for shape, kind, folders in PLANS:
        if options.only and shape != options.only:
            continue
        wanted, measured = SIZES[shape], []
        for sizes in [wanted._replace(**_folder(f)) for f in options.folders or folders] or [
            wanted
        ]:
            scratch = Path(tempfile.mkdtemp(prefix="unmergeable-align-", dir=options.where))
            try:
                found, row = measure(shape, sizes, kind, options.runs, scratch)
            finally:
                shutil.rmtree(scratch)
            print(row, file=sys.stderr)
            measured.append(found)
            text.append(row)
        if len(measured) > 1:
            lines += predicted(f"{shape}, {kind} lock", measured, wanted)
    done = "\n".join([*text, "", *lines]).rstrip()
    print(done)
    if options.write:
        GUIDE.write_text(put(GUIDE.read_text("utf-8"), BEGIN, END, done), "utf-8")


def _folder(text: str) -> dict[str, int]:
    layers, _, words = text.partition(":")
    return {"layers": int(layers), "vocabulary": int(words)}


def measure(shape: str, sizes: Sizes, kind: str, turns: int, scratch: Path) -> tuple[Measured, str]:
    """Measures one folder; returns its row of the table, too."""
    key, base, locked, out = (scratch / name for name in ("key", "base", "locked", "aligned"))
    tool = [sys.executable, "-m", "unmergeable"]
    numbers = [shape, str(sizes.layers), str(sizes.vocabulary)]
    timed([*tool, "keygen", str(key)])
    timed([sys.executable, str(MAKER), str(scratch / "expert"), "expert", *numbers])
    command = ["protect", str(scratch / "expert"), str(locked), "--key", str(key)]
    timed([*tool, *command, "--set", f"kind={kind}"])
    shutil.rmtree(scratch / "expert")  # what it was can be said without it
    timed([sys.executable, str(MAKER), str(base), "base", *numbers])
    runs, fits = [], []
    for turn in range(turns + 1):
        shutil.rmtree(out, ignore_errors=True)
        command = ["align", str(locked), str(out), "--base", str(base), "--json"]
        warm_memory(MEMORY)
        bring_to_memory([base, locked])
        with (scratch / "said").open("wb") as said:
            run = timed([*tool, *command], said)
        if turn:  # the first turn warms the page cache
            runs.append(run)
            fits.append(json.loads((scratch / "said").read_text())["fit_seconds"])
    with (scratch / "said").open("wb") as said:
        timed([sys.executable, str(MAKER), str(out), "residual", *numbers], said)
    left = float((scratch / "said").read_text())
    walls, peak = [run.wall for run in runs], max(run.peak for run in runs) / 1e9
    row = (
        f"| {shape} | {kind} | {sizes.layers} | {sizes.vocabulary} | "
        f"{open_folder(locked).size / 1e9:.2f} | {spread(fits)} | {spread(walls)} | "
        f"{statistics.median(run.cpu for run in runs):.1f} | {peak:.2f} | {left:.2g} |"
    )
    return Measured(sizes, statistics.median(fits), statistics.median(walls), peak), row


def predicted(name: str, measured: list[Measured], wanted: Sizes) -> list[str]:
    """The straight lines through the medians, and where they lead."""
    units = {"layers": (1.0, "a layer"), "vocabulary": (1e-6, "a million words")}
    used = {
        field: unit
        for field, unit in units.items()
        if len({getattr(one.sizes, field) for one in measured}) > 1
    }

    def row(sizes: Sizes) -> list[float]:
        return [1.0, *(getattr(sizes, field) * scale for field, (scale, _) in used.items())]

    table, lines = np.array([row(one.sizes) for one in measured]), []
    for what in ("fit", "command"):
        seconds = np.array([getattr(one, what) for one in measured])
        found = np.linalg.lstsq(table, seconds, rcond=None)[0]
        gap = np.abs(table @ found - seconds).max()
        terms = " and ".join(
            f"{x:.2f} s {unit}" for x, (_, unit) in zip(found[1:], used.values(), strict=True)
        )
        lines += [
            f"{name}, {what}: {found[0]:.2f} s, {terms}, {gap:.2f} s off at most. So "
            f"{wanted.layers} layers and {wanted.vocabulary} words take "
            f"{row(wanted) @ found:.0f} s.",
            "",
        ]
    return lines


if __name__ == "__main__":
    main()
