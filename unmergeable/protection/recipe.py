"""What chains of defences do to a folder's tensors, as data; the keys come apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.plan import Moves
from unmergeable.defences.chain import Chain
from unmergeable.defences.choices import opened
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change
from unmergeable.keys.key import SECRET_BYTES, Key
from unmergeable.protection.marking import mark_of

_MARKING = 5  # times a float32 tensor's bytes that marking it takes besides


@dataclass(frozen=True)
class LockRecipe:
    """Locking or unlocking; everything in it stands in the locked model's folder, too.

    Attributes:
        links: the defences, as the manifest has them.
        config: the model's config.json.
        shapes: each tensor's dimensions, by name.
        back: whether to unlock.
        allow_non_finite: let NaN and infinities pass.
    """

    links: tuple[Link, ...]
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    back: bool
    allow_non_finite: bool

    @classmethod
    def of(
        cls, folder: ModelFolder, links: Sequence[Link], *, back: bool, allow_non_finite: bool
    ) -> LockRecipe:
        """The recipe for a folder; the arguments are those of the attributes."""
        return cls(tuple(links), dict(folder.config), folder.shapes, back, allow_non_finite)

    def opened(self, secret: bytes) -> Moves:
        """See `Recipe`; the secret is the key's."""
        key = Key(secret)
        gauges = [link for link in self.links if not link.lasting]
        chain = opened(gauges, key, Layout.of_lock(self.config, self.shapes))
        # A lossless lock is known by what is open, on both ways; what rounds, by what is locked.
        lossless = all(link.lossless for link in gauges)
        if self.back:
            return self._back(chain)._replace(read=not lossless, written=True)
        moves = self._forth(chain)._replace(read=lossless, written=not lossless)
        mark = mark_of(self.links, key)
        if not mark.scales:
            return moves
        rows = moves.by_rows
        return moves._replace(
            added=mark.add,
            by_rows=lambda entry: entry.name not in mark.scales and rows(entry),
            copies=moves.copies + _MARKING,
        )

    def _forth(self, chain: Chain) -> Moves:
        if not chain.gauges:
            return Moves(lambda entry, data: [data], lambda name: name)
        return self._moves(chain.tensor_map, chain.source, chain.copies)

    def _back(self, chain: Chain) -> Moves:
        def change(name: str) -> Change | TensorChain:
            return chain.tensor_map(chain.source(name)).inverse

        return self._moves(change, chain.destination, chain.copies)

    def _moves(
        self,
        change: Callable[[str], Change | TensorChain],
        source: Callable[[str], str],
        copies: int,
    ) -> Moves:
        def pieces(entry: TensorEntry, data: Bytes) -> Iterator[Bytes]:
            return change(entry.name).pieces(
                data, entry.shape, entry.dtype, allow_non_finite=self.allow_non_finite
            )

        return Moves(pieces, source, lambda entry: change(entry.name).rows_stay, copies)


@dataclass(frozen=True)
class RelockRecipe:
    """From one lock to another; everything in it stands in the two locked folders, too.

    Attributes:
        old: the defences that a key undoes, as the manifest has them.
        new: those that take their place.
        config: the model's config.json.
        shapes: each tensor's dimensions, by name.
    """

    old: tuple[Link, ...]
    new: tuple[Link, ...]
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, folder: ModelFolder, old: Sequence[Link], new: Sequence[Link]) -> RelockRecipe:
        """The recipe for a folder; the arguments are those of the attributes."""
        return cls(tuple(old), tuple(new), dict(folder.config), folder.shapes)

    def opened(self, secret: bytes) -> Moves:
        """See `Recipe`; the secret is the old key's, and then the new one's.

        The old lock is undone first and rounded to the stored format, and then the new one applied.
        One composed map would round once less and lose more: the original stands in that format,
        and rounding gives most of its numbers back exactly.
        """
        layout = Layout.of_lock(self.config, self.shapes)
        old = opened(self.old, Key(secret[:SECRET_BYTES]), layout)
        new = opened(self.new, Key(secret[SECRET_BYTES:]), layout)

        def back(name: str) -> Change | TensorChain:
            return old.tensor_map(old.source(name)).inverse

        def forth(name: str) -> Change | TensorChain:
            return new.tensor_map(old.source(name))

        def undone(entry: TensorEntry, data: Bytes) -> Bytes:
            return back(entry.name).apply(data, entry.shape, entry.dtype, allow_non_finite=True)

        def redone(entry: TensorEntry, data: Bytes) -> Iterator[Bytes]:
            return forth(entry.name).pieces(data, entry.shape, entry.dtype, allow_non_finite=True)

        moves = Moves(
            redone,
            lambda name: old.destination(new.source(name)),
            lambda entry: back(entry.name).rows_stay and forth(entry.name).rows_stay,
            old.copies + new.copies,
            read=True,
            added=undone,
            read_as=old.source,
        )
        if all(link.lossless for link in self.old):
            return moves
        # What rounds is known by what is locked: that is digested, and undone only then.
        return Moves(
            lambda entry, data: redone(entry, undone(entry, data)),
            moves.source,
            moves.by_rows,
            moves.copies,
            read=True,
            written=True,
        )
