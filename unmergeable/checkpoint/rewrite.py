"""Rewrites a model folder tensor by tensor, in memory bounded by the largest tensor.

Output files keep the input's names, headers and byte positions; `shards` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unmergeable.checkpoint.digest import weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.plan import Given, Plan, Transform
from unmergeable.checkpoint.recheck import Recheck
from unmergeable.checkpoint.shards import Shards
from unmergeable.checkpoint.staging import Output
from unmergeable.errors import ClusterError, UnmergeableError
from unmergeable.executors.executor import Advance as Advance
from unmergeable.executors.executor import Executor, executor_of


class Rewritten(NamedTuple):
    """What was learned while rewriting; `digest` says of what each digest is.

    Attributes:
        files: the digest of each weight file that was written.
        read: the digest of all weights that were read; empty unless it was asked for.
        written: the digest of all weights that were written; empty unless it was asked for.
    """

    files: dict[str, str]
    read: str
    written: str


def rewrite(
    folder: ModelFolder,
    staging: Output,
    transform: Transform,
    *,
    source: Callable[[str], str] = lambda name: name,
    read: bool = False,
    written: bool = False,
    workers: int | None = None,
    advance: Advance = lambda done: None,
) -> Rewritten:
    """Writes the changed weight files into a staging folder, by functions that only exist here.

    Args:
        folder: the input.
        staging: where; files it has finished already are not made again.
        transform: the change of one tensor's bytes; same size out as in. It gets the tensor that
            is read, and gives what stands under the name that asked for it.
        source: the tensor to read for each name; a permutation of the names. It may be in another
            file.
        read: whether to digest the weights that are read.
        written: whether to digest the weights that are written.
        workers: threads; default: the processors at hand.
        advance: called with the number of bytes just finished.

    Raises:
        InputError: a disk without room, an input that was cut or changed meanwhile.
        UnmergeableError: as `transform` does.
        OSError: a full disk, an input that cannot be read; `staging` makes a sentence of it.
    """
    plan = Plan.of(folder, Given(transform, source, read, written), staging)
    return carry_out(plan, staging, executor_of(workers), advance=advance)


def carry_out(
    plan: Plan,
    staging: Output,
    executor: Executor,
    *,
    secret: bytes = b"",
    advance: Advance = lambda done: None,
) -> Rewritten:
    """Makes the weight files of a plan, wherever the executor runs; see `rewrite`.

    Args:
        plan: for this staging.
        staging: where; files it has finished already are not made again, if they are still as
            their notes say.
        executor: what makes them.
        secret: what the plan's recipe needs.
        advance: called with the number of bytes just finished.

    Raises:
        UnmergeableError: as `rewrite` and the recipe do; `ClusterError` where machines were lost.
        OSError: as `rewrite`.
    """
    sizes = {header.path.name: header.file_size for header in plan.folder.files}
    _check_kept(plan, staging, executor, secret)
    todo = [name for name in sizes if name not in staging.done]
    _check_space(staging, [sizes[name] for name in todo])
    for header in plan.folder.files:
        if header.path.name not in todo:
            advance(sum(entry.size for entry in header.tensors))
    staging.begin(todo)
    try:
        executor.run(Shards(plan), todo, secret=secret, advance=advance, finished=staging.finish)
    except ClusterError:
        raise
    except UnmergeableError:
        staging.discard()  # the same call would be refused again
        raise
    notes = [staging.done[name] for name in sizes]
    read, written = (
        {name: digest for note in notes for name, digest in note[side].items()}
        for side in ("read", "written")
    )
    tensors = plan.folder.tensors
    return Rewritten(
        {name: staging.done[name]["file"] for name in sizes},
        weights_digest(tensors, read) if read else "",
        weights_digest(tensors, written) if written else "",
    )


def _check_kept(plan: Plan, staging: Output, executor: Executor, secret: bytes) -> None:
    """Takes back what an earlier run finished, unless it is still what that run noted of it."""
    names = {header.path.name for header in plan.folder.files}
    notes = {name: note for name, note in staging.done.items() if name in names}
    fits: dict[str, bool] = {}
    if notes:
        job = Recheck(plan, notes)
        executor.run(
            job,
            list(notes),
            secret=secret,
            advance=lambda done: None,
            finished=fits.__setitem__,
        )
    for name in list(staging.done):
        if not fits.get(name):
            staging.forget(name)


def _check_space(staging: Output, sizes: list[int]) -> None:
    staging.target.check_space(sizes)
