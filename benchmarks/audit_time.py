"""Times an audit of the demonstration's locked expert, from an empty cache of measurements.

    python benchmarks/audit_time.py            # the quick preset
    python benchmarks/audit_time.py standard   # everything that needs no text and no labels

SmolLM2-135M, one peer, two tasks of 200 test and 100 validation items. Models are made first if
they are not in the cache. Prints the seconds, the peak of memory in GB and in copies of the model,
and the verdict.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import unmergeable
from unmergeable.audit.audit import audit
from unmergeable.demo.run import OWNER, PEER
from unmergeable.running.process import restart_once
from unmergeable.tasks.glosses import glosses
from unmergeable.tasks.spam import spam
from unmergeable.tasks.task_file import TaskFile
from unmergeable.training.experts import expert
from unmergeable.zoo.smollm2 import smollm2


def main() -> None:
    """Prints one line a figure."""
    restart_once()
    preset = sys.argv[1] if len(sys.argv) > 1 else "quick"
    base = smollm2()
    tasks = glosses(), spam()
    experts = [expert(base, task, how) for task, how in zip(tasks, (OWNER, PEER), strict=True)]
    cut = [replace(t, train=(), validation=t.validation[:100], test=t.test[:200]) for t in tasks]
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
            preset=preset,
            cache=folder / "cache",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = 4 * document["subject"]["base"]["parameters"]
    print(f"preset {preset}: {document['provenance']['seconds']:.0f} s")
    print(f"peak memory: {peak / 1e9:.1f} GB, {peak / model:.1f} copies of the model")
    print(document["verdict"]["sentence"])


if __name__ == "__main__":
    main()
