"""Looks whether what an earlier run finished is still what its journal says, and what is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.plan import Moves, Plan
from unmergeable.checkpoint.source import open_source
from unmergeable.errors import InputError
from unmergeable.executors.executor import Do, Finished, Inline, Progress

# Bytes that are read at once: a request each, where a file is at an address.
_PART = 16 << 20


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

            def do(names: Sequence[str], progress: Progress, finished: Finished) -> None:
                for name, answer in zip(names, pool.map(fits, names), strict=True):
                    finished(name, answer)

            yield do

    def _fits(self, moves: Moves, name: str) -> bool:
        (header,) = (header for header in self.plan.folder.files if header.path.name == name)
        written = {entry.name for entry in header.tensors}
        note = self.notes[name]
        if not _is_note(note, {"read": set(map(moves.source, written)), "written": written}):
            return False
        front = TensorEntry("", "U8", (len(header.raw),), 0, len(header.raw))
        try:
            with closing(open_source(self.plan.target.finished(name))) as source:
                if source.size() != header.file_size or source.read(front).tobytes() != header.raw:
                    return False
                for entry in header.tensors:
                    hasher = moves.written()
                    for done in range(0, entry.size, _PART):
                        size = min(_PART, entry.size - done)
                        part = replace(entry, start=entry.start + done, size=size)
                        source.read(part, hasher.update)
                    if hasher.hexdigest() != note["written"][entry.name]:
                        return False
        except (OSError, InputError):
            return False
        return True


def _is_note(note: Any, names: Mapping[str, set[str]]) -> bool:
    """Whether this has a digest of each tensor that was read, and of each that was written."""
    return (
        isinstance(note, dict)
        and note.keys() == names.keys()
        and all(
            isinstance(note[side], dict)
            and note[side].keys() == names[side]
            and all(isinstance(digest, str) for digest in note[side].values())
            for side in names
        )
    )
