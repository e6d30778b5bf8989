"""The lock: a change of coordinates drawn from a key that the model's function cannot see.

What it claims: exact. The lossless kind (the default) is made of permutations and signs, and of
powers of two where `scales` asks for them, so that no weight is rounded, unlocking is bit-exact,
and outputs change only by the order of floating-point sums. The general kind draws from the full
groups and rounds once.

What it costs: nothing at run time. Powers of two make a later quantisation to 8 or 4 bits about
twice as inexact (`benchmarks/consumers.py`), so they are off by default. Data needed: none.
Architectures: every declared family. Changes in the folder: the values of the weights, and
`unmergeable.json`.

What undoes it: aligning the protected model to its public base, space by space, in seconds and
without data. A lock alone stops unmodified merge tools, nobody else.

Source: ours; the groups are those of section 3 of the design.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.defences.defence import Decision, Defence, Subject
from unmergeable.defences.options import flag
from unmergeable.errors import InputError
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.notation import Gauge, Space
from unmergeable.keys.key import Key

NAME = "lock"
KINDS = ("lossless", "general")
SETTINGS = {
    "kind": "lossless (default): permutations and signs; nothing is rounded. general: rotations "
    "and real scales too, where the architecture allows them; rounds once.",
    "spaces": "all (default), or names with commas between, as `unmergeable inspect` prints them. "
    "What is not named stays in the open model's coordinates, where merge tools find it. A LoRA "
    "adapter of the open model fits the locked one only if no space that its modules touch moves: "
    "spaces=ffn keeps adapters of the attention, at the price that embeddings and attention merge "
    "as before.",
    "scales": "false (default) or true: powers of two in the lossless kind. They add to the secret "
    "and double the error of the locked model in 8 or 4 bits. float16 and float8 are too narrow "
    "for them.",
}


@dataclass(frozen=True)
class LockSettings:
    """The public parameters of a lock, resolved for one model.

    Attributes:
        kind: "lossless" or "general".
        spaces: the spaces that move.
        scales: whether the lossless kind uses powers of two.
    """

    kind: str
    spaces: tuple[str, ...]
    scales: bool

    @classmethod
    def resolve(cls, given: Mapping[str, Any], layout: Layout) -> LockSettings:
        """Fills in defaults for a model and checks what was given.

        Args:
            given: values by name; strings as they come from a command line are understood.
            layout: the model's.

        Raises:
            InputError: an unknown setting or value; a space the model does not have.
        """
        if unknown := given.keys() - SETTINGS.keys():
            raise InputError(
                f"the lock has no setting {sorted(unknown)[0]!r}; it has {', '.join(SETTINGS)}."
            )
        kind = given.get("kind", "lossless")
        if kind not in KINDS:
            raise InputError(f"kind={kind!r}: choose {' or '.join(KINDS)}.")
        movable = layout.movable()
        names = given.get("spaces", "all")
        chosen = names.split(",") if isinstance(names, str) else list(names)
        if chosen == ["all"]:
            chosen = list(movable)
        if not chosen:
            raise InputError("spaces: none named, so nothing would move.")
        for name in chosen:
            if name not in movable:
                fixed = layout.spaces.get(name)
                why = f"it is fixed: {fixed.fixed}" if fixed else "no such space"
                raise InputError(f"spaces: {name!r}: {why}. Movable: {', '.join(movable)}.")
        ordered = tuple(name for name in movable if name in set(chosen))
        return cls(kind, ordered, flag(given, "scales") and kind == "lossless")

    def public(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return {"kind": self.kind, "spaces": list(self.spaces), "scales": self.scales}

    @property
    def draw(self) -> Kind:
        """What to draw of each group."""
        return Kind(general=self.kind == "general", scales=self.scales)

    def bits(self, layout: Layout) -> dict[str, float]:
        """Entropy that the lock draws for each space, in bits, over all its instances.

        For the general kind, whose elements are continuous, the discrete part only.
        """
        return {
            name: _bits(space, self.draw) * sum(1 for _ in layout.instances(space))
            for name, space in layout.movable().items()
            if name in self.spaces
        }


def gauge(key: Key, settings: LockSettings) -> Gauge:
    """The lock's element on each instance of each space.

    Every instance has a stream of its own, named "lock/SPACE/INDEX...", so that the order in which
    tensors are worked on does not matter. These names, and the groups' order of drawing, are part
    of the key format: the tests hold fixed vectors.
    """

    @lru_cache(maxsize=4096)
    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        size = space.size or 0
        if space.group is None or space.name not in settings.spaces:
            return AxisMap.identity(size)
        name = "/".join(["lock", space.name, *map(str, instance)])
        return space.group.draw(size, key.randomness(name), settings.draw)

    return element


def _bits(space: Space, kind: Kind) -> float:
    return space.group.bits(space.size or 0, kind) if space.group else 0.0


class Lock(Defence):
    """The lock as one link of a chain of defences."""

    name = NAME
    title = "lock"
    settings = SETTINGS

    def decide(self, given: Mapping[str, Any], subject: Subject) -> Decision:
        """See [`Defence.decide`][unmergeable.defences.defence.Defence.decide]."""
        chosen = LockSettings.resolve(given, subject.layout)
        lossless = chosen.kind == "lossless"
        return Decision(chosen.public(), lossless, chosen.bits(subject.layout))

    def gauge(self, key: Key, layout: Layout, settings: Mapping[str, Any], secret: bytes) -> Gauge:
        """See [`Defence.gauge`][unmergeable.defences.defence.Defence.gauge]."""
        return gauge(key, LockSettings.resolve(settings, layout))
