"""Times an audit of the demonstration's locked expert, from an empty cache of measurements.

    python benchmarks/audit_time.py            # the quick preset
    python benchmarks/audit_time.py standard   # everything that needs no text and no labels
    python benchmarks/audit_time.py standard --items 16 --methods linear knots    # memory alone

SmolLM2-135M, one peer, two tasks of 200 test and 100 validation items, or `--items` of each. Models
are made first, by a process of their own, if they are not in the cache. Prints the seconds and the
peak of memory of each part, then those of the whole, in GB and in copies of the model, and the
verdict.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import unmergeable
from unmergeable.audit.audit import audit
from unmergeable.audit.ensemble import PRESETS
from unmergeable.audit.progress import Progress
from unmergeable.demo.run import OWNER, PEER
from unmergeable.running.process import restart_once
from unmergeable.tasks.glosses import glosses
from unmergeable.tasks.spam import spam
from unmergeable.tasks.task_file import TaskFile
from unmergeable.training.experts import expert
from unmergeable.zoo.smollm2 import smollm2

TASKS, HOW = (glosses, spam), (OWNER, PEER)


@dataclass
class Parts:
    """Seconds and peak of memory of each part of an audit, in the order in which they ran."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)
    _what: str = "loading and the first controls"
    _clock: float = field(default_factory=time.perf_counter)

    def see(self, what: str, *_: object) -> None:
        """Told by the audit what it is doing now."""
        if what != self._what:
            self.end()
            self._what = what

    def end(self) -> None:
        """The part is over: the kernel counts its peak anew for the next one."""
        now, peak = time.perf_counter(), _peak()
        Path("/proc/self/clear_refs").write_text("5")
        self.rows.append((self._what, now - self._clock, peak))
        print(f"{now - self._clock:8.1f} s {peak / 1e9:6.2f} GB  {self._what}", flush=True)
        self._clock = now


def _peak() -> float:
    """Bytes: the most that was resident since the count began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Prints one line a figure."""
    restart_once()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="quick", choices=[*PRESETS, "experts"])
    parser.add_argument("--items", type=int, help="of each split of each task")
    parser.add_argument("--methods", nargs="+", help="of merging; default: the preset's")
    options = parser.parse_args()
    asked = options.preset
    base, tasks = smollm2(), [task() for task in TASKS]
    if asked == "experts":
        for task, how in zip(tasks, HOW, strict=True):
            expert(base, task, how)
        return
    subprocess.run([sys.executable, __file__, "experts"], check=True)
    experts = [expert(base, task, how) for task, how in zip(tasks, HOW, strict=True)]
    most = options.items or 200
    cut = [
        replace(t, train=(), validation=t.validation[: min(most, 100)], test=t.test[:most])
        for t in tasks
    ]
    if options.methods:
        core = tuple(name for name in PRESETS[asked].core if name in options.methods)
        chosen = replace(PRESETS[asked], methods=tuple(options.methods), core=core)
        PRESETS[asked] = chosen
    parts = Parts()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        key = unmergeable.keygen(folder / "key")
        unmergeable.protect(experts[0], folder / "locked", key)
        document = audit(
            folder / "locked",
            base=base,
            original=experts[0],
            peers=experts[1:],
            tasks=TaskFile((0, 1), tuple(cut), {}),
            preset=asked,
            cache=folder / "cache",
            progress=Progress(parts.see),
        )
    parts.end()
    peak = max(peak for _, _, peak in parts.rows)
    model = 4 * document["subject"]["base"]["parameters"]
    print(f"preset {asked}: {document['provenance']['seconds']:.0f} s")
    print(f"peak memory: {peak / 1e9:.2f} GB, {peak / model:.1f} copies of the model")
    print(document["verdict"]["sentence"])


if __name__ == "__main__":
    main()
