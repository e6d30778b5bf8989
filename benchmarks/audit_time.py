"""Times an audit of the demonstration's locked expert, from an empty cache of measurements.

    python benchmarks/audit_time.py            # the quick preset
    python benchmarks/audit_time.py standard   # everything that needs no text and no labels
    python benchmarks/audit_time.py standard --items 16 --methods linear knots    # memory alone
    python benchmarks/audit_time.py learned    # what needs inputs: the merges that learn,
    python benchmarks/audit_time.py trained    # the attacks that train,
    python benchmarks/audit_time.py stealer    # and Merger-as-a-Stealer
    python benchmarks/audit_time.py --write    # tables of the last three into docs/attacks.md

SmolLM2-135M, one peer, two tasks of 200 test and 100 validation items, or `--items` of each; for
the last three, `--texts` unlabelled texts of the owner's task and as many labelled items of the
peer's. Models are made first, by a process of their own, if they are not in the cache. Prints the
seconds, by the clock and of the processors, and the peak of memory of each part; then those of the
whole, in GB and in copies of the model, what the processors' time was spent on, and the verdict
with the best merge of each model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audit_tables import NEEDS, keep, write
from spent import watched

import unmergeable
from unmergeable.auditing.audit import audit
from unmergeable.auditing.ensemble import PRESETS
from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.demo.run import OWNER, PEER
from unmergeable.bench.zoo.smollm2 import smollm2
from unmergeable.evaluation.task import Task
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.evaluation.value import strength
from unmergeable.models.process import restart_once
from unmergeable.progress import Status
from unmergeable.training.experts import expert

TASKS, HOW = (glosses, spam), (OWNER, PEER)
PRESETS.update(NEEDS)


@dataclass
class Parts:
    """Seconds and peak of memory of each part of an audit, in the order in which they ran."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)
    _what: str = "loading and the first controls"
    _clock: float = field(default_factory=time.perf_counter)
    _processors: float = field(default_factory=time.process_time)

    def see(self, status: Status) -> None:
        """Told by the audit what it is doing now."""
        if status.what != self._what:
            self.end()
            self._what = status.what

    def end(self) -> None:
        """The part is over: the kernel counts its peak again for the next one."""
        now, spent, peak = time.perf_counter(), time.process_time(), _peak()
        Path("/proc/self/clear_refs").write_text("5")
        self.rows.append((self._what, now - self._clock, peak))
        print(
            f"{now - self._clock:8.1f} s {spent - self._processors:8.1f} CPU s "
            f"{peak / 1e9:6.2f} GB  {self._what}",
            flush=True,
        )
        self._clock, self._processors = now, spent


def _peak() -> float:
    """Bytes: the most that was resident since the count began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Prints one line a figure."""
    restart_once()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="quick", choices=[*PRESETS, "experts"])
    parser.add_argument("--items", type=int, default=200, help="of each split of each task")
    parser.add_argument("--texts", type=int, default=30, help="unlabelled, and labelled items")
    parser.add_argument("--methods", nargs="+", help="of merging; default: the preset's")
    parser.add_argument("--attacks", nargs="+", help="beyond alignment; default: the preset's")
    parser.add_argument("--write", action="store_true", help="only put the tables into the page")
    options = parser.parse_args()
    if options.write:
        write()
        return
    asked = options.preset
    base, tasks = smollm2(), [task() for task in TASKS]
    if asked == "experts":
        for task, how in zip(tasks, HOW, strict=True):
            expert(base, task, how)
        return
    subprocess.run([sys.executable, __file__, "experts"], check=True)
    experts = [expert(base, task, how) for task, how in zip(tasks, HOW, strict=True)]
    if options.methods:
        core = tuple(name for name in PRESETS[asked].core if name in options.methods)
        chosen = replace(PRESETS[asked], methods=tuple(options.methods), core=core)
        PRESETS[asked] = chosen
    if options.attacks:
        PRESETS[asked] = replace(PRESETS[asked], attacks=tuple(options.attacks))
    spent, start, parts = watched(), time.process_time(), Parts()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        key = unmergeable.keygen(folder / "key")
        unmergeable.protect(experts[0], folder / "locked", key)
        document = audit(
            folder / "locked",
            base=base,
            original=experts[0],
            peers=experts[1:],
            tasks=_task_file(tasks, options.items, options.texts if asked in NEEDS else 0),
            preset=asked,
            stealer=asked == "stealer",
            cache=folder / "cache",
            progress=parts.see,
        ).to_dict()
    parts.end()
    peak = max(peak for _, _, peak in parts.rows)
    model = 4 * document["subject"]["base"]["parameters"]
    about = document["provenance"]
    print(f"preset {asked}: {about['seconds']:.0f} s, {time.process_time() - start:.0f} CPU s")
    print(f"{about['evaluations']} evaluations, {about['looked_up']} looked up")
    print(*spent.lines(), sep="\n")
    print(f"peak memory: {peak / 1e9:.2f} GB, {peak / model:.1f} copies of the model")
    print(*_best(document), sep="\n")
    print(document["verdict"]["sentence"])
    if asked in NEEDS:
        keep(asked, document, parts.rows)


def _best(document: dict[str, Any]) -> Iterator[str]:
    """The best merge of each model under each attack, a line each."""
    cells = [cell for cell in document["cells"] if cell["value"]]
    for subject, attack in dict.fromkeys((cell["subject"], cell["attack"]) for cell in cells):
        own = [cell for cell in cells if (cell["subject"], cell["attack"]) == (subject, attack)]
        best = max(own, key=lambda cell: strength(cell["value"]["value"], cell["price"]))
        worth = " to ".join(f"{best['value'][end]:.3f}" for end in ("low", "high"))
        value = f"V = {best['value']['value']:.3f} ({worth})"
        yield f"{subject}, {attack}: {value} by {best['method']} {best['coefficients']}"


def _task_file(tasks: list[Any], items: int, texts: int) -> TaskFile:
    """The tasks with fewer items, texts for the first and labelled items of the others."""

    def cut(task: Task, train: int) -> Task:
        return replace(
            task,
            train=task.train[:train],
            validation=task.validation[: min(items, 100)],
            test=task.test[:items],
        )

    chosen = tuple(cut(task, texts if place else 0) for place, task in enumerate(tasks))
    own = tuple(item.text for item in tasks[0].train[:texts])
    return TaskFile((0, 1), chosen, {"in-domain": own} if texts else {})


if __name__ == "__main__":
    main()
