"""Looks whether what an earlier run finished is still what its journal says, and what is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from unmergeable.checkpoint.digest import file_digest
from unmergeable.checkpoint.plan import Moves, Plan
from unmergeable.errors import InputError
from unmergeable.executors.executor import Advance, Do, Finished, Inline


@dataclass(frozen=True)
class Recheck:
    """The job of reading finished weight files again, an item each.

    Inputs are not read again: the work has another name once a mark of theirs is another, and has
    none where they have no mark; see `plan.fingerprint`.

    Attributes:
        plan: of which they are.
        notes: what the journal says of each, by its name; it may be anything.
    """

    plan: Plan
    notes: Mapping[str, Any]

    @contextmanager
    def started(self, secret: bytes, threads: int) -> Iterator[Do]:
        """See `Job`; the result is whether the file is as it should be."""
        fits = partial(self._fits, self.plan.recipe.opened(secret))
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads) if threads else Inline())

            def do(names: Sequence[str], advance: Advance, finished: Finished) -> None:
                for name, answer in zip(names, pool.map(fits, names), strict=True):
                    finished(name, answer)

            yield do

    def _fits(self, moves: Moves, name: str) -> bool:
        (header,) = (header for header in self.plan.folder.files if header.path.name == name)
        written = {entry.name for entry in header.tensors}
        read = {moves.read_as(moves.source(name)) for name in written}
        note = self.notes[name]
        wanted = {
            "read": read if moves.read else set(),
            "written": written if moves.written else set(),
        }
        if not _is_note(note, wanted):
            return False
        try:
            return bool(file_digest(self.plan.target.finished(name)) == note["file"])
        except (OSError, InputError):
            return False


def _is_note(note: Any, names: Mapping[str, Set[str]]) -> bool:
    """Whether this has the file's digest, and one of each tensor of these, read and written."""
    return (
        isinstance(note, dict)
        and note.keys() == {"file", *names}
        and all(
            isinstance(note[side], dict)
            and note[side].keys() == names[side]
            and all(isinstance(digest, str) for digest in note[side].values())
            for side in names
        )
    )
