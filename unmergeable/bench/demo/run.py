"""Run the demonstration: base, two experts, a lock, and an audit of it.

How its settings were chosen, on validation items alone: for the definitions, of two sets of eight
kinds the one whose expert was more accurate (94 against 92 %), and of three prompts the one that
left the expert most to gain (the base has 54 %, 58 % and 65 %); for the mails, of two prompts the
one whose expert gained more; for each expert, of two recipes of about a minute the one that was
more accurate. Merge coefficients are chosen by the audit, on validation items.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.spam import spam
from unmergeable.bench.zoo.smollm2 import NAME, smollm2
from unmergeable.evaluation import store
from unmergeable.extras import optional
from unmergeable.progress import Progress, Status, silent
from unmergeable.training.experts import Recipe, expert

if TYPE_CHECKING:
    from unmergeable.verification.verify import VerifyReport

OWNER = Recipe(steps=60, batch=16, rate=7e-5)
PEER = Recipe(steps=80, batch=16, rate=7e-5)
# Of each task, for choosing coefficients: enough to tell good ones from bad.
VALIDATION = 64
STAGES = 6  # for progress


def run(cache: str | Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Fine-tune two experts of one base, lock one, audit the lock; measure all of it.

    The first run takes minutes and fills the cache: the model, the data, both experts and every
    measured score. Later runs lock, verify, align and unlock again and look the scores up by the
    content of the weights they find. The key is drawn at random for each cache, so the scores of
    locked merges differ a little from one cache to another.

    Args:
        cache: The cache folder; see [`root`][unmergeable.evaluation.store.root].
        progress: Is told how far it is.

    Returns:
        A JSON-able dict without NaN: `model`; `lock` (same: whether the locked expert verifies
        against the open one, which the caller must look at; difference relative to the largest
        logit, None if not finite); `audit`, the report of the audit; `files`, where it was written,
        by suffix; `seconds` by stage.

    Raises:
        UnmergeableError: A download failed, the lock was refused, or a control of the audit failed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model here is a folder
    # The GGUF reader's bar heeds nothing else, and tqdm looks when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    for library in ("torch", "transformers", "mergekit", "scipy", "gguf", "accelerate"):
        optional(library)  # better now than after minutes
    from unmergeable.auditing.audit import audit
    from unmergeable.evaluation.task_file import TaskFile

    _quiet()
    folder = store.root(cache)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        progress(Status(name, len(seconds), STAGES, "steps"))
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("model"):
        base = smollm2(cache)
    with stage("data"):
        tasks = (glosses(cache), spam(cache))
    with stage("owner's expert"):
        owner = expert(base, tasks[0], OWNER, cache, progress)
    with stage("peer's expert"):
        peer = expert(base, tasks[1], PEER, cache, progress)
    with stage("locking and verifying"):
        lock = _lock(owner, folder / "demo")
    with stage("audit"):
        chosen = tuple(replace(task, validation=task.validation[:VALIDATION]) for task in tasks)
        audited = audit(
            lock.locked,
            base=base,
            original=owner,
            peers=[peer],
            tasks=TaskFile((0, 1), chosen, {}),
            preset="demo",
            key=lock.key,
            cache=cache,
            command="unmergeable demo",
            progress=progress,
        )
        files = audited.save(folder / "demo" / "report")
    seconds["total"] = sum(seconds.values())
    difference = lock.check.outputs.relative
    return {
        "model": {"name": NAME},
        "lock": {
            "same": lock.check.same,
            "difference": difference if math.isfinite(difference) else None,
        },
        "audit": audited.to_dict(),
        "files": {suffix: str(path) for suffix, path in files.items()},
        "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
    }


def _quiet() -> None:
    """Silence progress bars and warnings of transformers that would cut through ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Locked:
    """The locked expert, its key, and what `verify` says of it."""

    locked: Path
    key: Path
    check: VerifyReport


def _lock(owner: Path, folder: Path) -> Locked:
    """Lock the expert with the key in `folder` (made on first use) and verify it."""
    import unmergeable

    folder.mkdir(parents=True, exist_ok=True)
    key, locked = folder / "owner.key", folder / "locked"
    if not key.exists():
        unmergeable.keygen(key)
    shutil.rmtree(locked, ignore_errors=True)
    unmergeable.protect(owner, locked, key=key)
    return Locked(locked, key, unmergeable.verify(owner, locked, key=key))
