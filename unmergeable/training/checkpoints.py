"""The folder beside the output in which a run's checkpoints grow, and what run it belongs to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError

_RUN = "run.json"


def work_folder(out: str | Path) -> Path:
    """Where the checkpoints of a run into `out` are."""
    out = Path(out).resolve()
    return out.parent / f".{out.name}.training"


def last_checkpoint(work: str | Path) -> Path | None:
    """The last complete checkpoint: its state is what the Trainer writes last."""
    done = [
        path.parent for path in Path(work).glob("checkpoint-*/trainer_state.json") if _whole(path)
    ]
    return max(done, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def begin(work: Path, run: Mapping[str, Any], resume: bool) -> Path | None:
    """Makes the folder, or takes over what an earlier run left in it.

    Args:
        work: the folder.
        run: everything that decides what the run computes, as JSON.
        resume: whether to go on from the last checkpoint.

    Returns:
        The checkpoint to go on from, if any.

    Raises:
        InputError: nothing to resume, checkpoints in the way, or those of another run.
    """
    last = last_checkpoint(work)
    if not resume:
        if last:
            raise InputError(
                f"an earlier run left checkpoints in {work}. Go on from them with --resume, or "
                "remove that folder."
            )
        shutil.rmtree(work, ignore_errors=True)
    elif last:
        _check_same(work, run)
        return last
    elif not work.exists():
        raise InputError(f"there is nothing to resume: {work} does not exist.")
    work.mkdir(parents=True, exist_ok=True)
    (work / _RUN).write_text(json.dumps(run, indent=2, sort_keys=True))
    return None


def tidy(work: Path) -> None:
    """Removes the folder of a run that ended before its first checkpoint."""
    if last_checkpoint(work) is None:
        shutil.rmtree(work, ignore_errors=True)


def _check_same(work: Path, run: Mapping[str, Any]) -> None:
    try:
        earlier = json.loads((work / _RUN).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{work / _RUN} cannot be read: {error}. Remove {work}.") from None
    now = json.loads(json.dumps(run))
    for name in sorted({*earlier, *now}):
        if earlier.get(name) != now.get(name):
            raise InputError(
                f"{work} is of another run: {name} was {earlier.get(name)!r} and is now "
                f"{now.get(name)!r}. Resume with what it was, or remove that folder."
            )


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True
