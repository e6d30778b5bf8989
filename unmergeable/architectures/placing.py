"""One model's tensors, each placed by a row of its declaration, and what must be true of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.architectures.rules import SpaceRule, TensorRule
from unmergeable.architectures.sizes import count, evaluate
from unmergeable.errors import InputError, quoted
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Space, Spaces, split

# The spellings of a row's name, and the position in each index space.
Place = tuple[tuple[str, ...], tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class Placement:
    """Where one tensor lives.

    Attributes:
        rule: the declaration's row.
        index: the position in each index space that the tensor's name gives, and in those that
            follow them.
    """

    rule: TensorRule
    index: Mapping[str, int]

    @property
    def place(self) -> Place:
        """The same for two spellings of one tensor's name, or two layouts of it, only."""
        return self.rule.templates, tuple(sorted(self.named.items()))

    @property
    def named(self) -> dict[str, int]:
        """The position in each index space that the name gives."""
        return {one: self.index[one] for one in self.rule.indices()}


class ModelSpaces(Mapping[str, Space]):
    """Spaces whose sizes are computed when first asked for: a model need not have them all.

    Args:
        rules: the declared spaces, by name.
        config: the model's.
        exposed: why a space that may move elsewhere stays, by name.
        most: the largest size that its tensors leave room for; None: not known.
    """

    def __init__(
        self,
        rules: Mapping[str, SpaceRule],
        config: Mapping[str, Any],
        exposed: Mapping[str, str],
        most: int | None = None,
    ) -> None:
        self._rules, self._config, self._exposed, self._most = rules, config, exposed, most
        self._bound: dict[str, Space] = {}

    def __getitem__(self, name: str) -> Space:
        if name not in self._bound:
            rule = self._rules[name]
            config = self._config_of(rule)
            size = None if rule.size is None else evaluate(rule.size, config, self._most)
            group, fixed = GROUPS[rule.group] if rule.group else None, rule.fixed
            if group and name in self._exposed:
                group, fixed = None, self._exposed[name]
            if size == 0:
                group, fixed = None, "this model has no such positions"
            self._bound[name] = Space(name, size, group, fixed, rule.per)
        return self._bound[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def limit(self, name: str) -> int | None:
        """How many positions of a space names may number: its size, and layers ahead; None: any."""
        size, rule = self[name].size, self._rules[name]
        if size is None or not rule.ahead:
            return size
        return size + (count(rule.ahead, self._config_of(rule), self._most) or 0)

    def is_ahead(self, name: str) -> bool:
        """Whether a space may have positions beyond its size."""
        return bool(self._rules[name].ahead)

    def following(self, index: Mapping[str, int]) -> dict[str, int]:
        """The positions in index spaces that follow others, from those that a name gives."""
        found = {}
        for name, rule in self._rules.items():
            if rule.follows and rule.follows.index in index:
                at = index[rule.follows.index]
                found[name] = rule.follows.position(at, self._config_of(rule))
        return found

    def _config_of(self, rule: SpaceRule) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self._config[rule.within] if rule.within else self._config
        return config

    def bound(self) -> dict[str, Space]:
        """The spaces in use, in the order of the data file."""
        return {name: self._bound[name] for name in self._rules if name in self._bound}


_ROOM = 1024  # sizes up to here cost nothing, whatever the weights are


def room(shapes: Mapping[str, Sequence[int]]) -> int:
    """A size that no space can have: twice the longest axis, or the number of tensors.

    What is below is compared with each tensor's shape and name.
    """
    dims = (size for shape in shapes.values() if 0 not in shape for size in shape)
    return max(_ROOM, 2 * len(shapes), 2 * max(dims, default=0))


def place(
    name: str, rules: Sequence[TensorRule], spaces: ModelSpaces, shape: Sequence[int] | None = None
) -> Placement | None:
    """The row that a tensor fits, and where its name says it stands; None if no row fits it.

    Args:
        name: as stored.
        rules: the rows of this model.
        spaces: of this model.
        shape: of the tensor, which tells apart the layouts in which it may be stored.
    """
    found = None
    for rule in rules:
        numbers = rule.match(name)
        if numbers is not None:
            found = found or (rule, numbers)
            if not rule.layouts or shape is None or fits(shape, rule, spaces):
                found = (rule, numbers)
                break
    return Placement(found[0], _index(found[0], list(found[1].values()), spaces)) if found else None


def fits(shape: Sequence[int], rule: TensorRule, spaces: Mapping[str, Space]) -> bool:
    """Whether a tensor's dimensions are those of a row."""
    declared = [axis.size(spaces) for axis in rule.axes]
    return len(shape) == len(declared) and all(
        want is None or want == have for want, have in zip(declared, shape, strict=True)
    )


def fitting(shape: Sequence[int], spaces: Spaces) -> str:
    """Which spaces have the sizes of a tensor's axes, in brackets; empty if none has."""
    sizes: dict[int, list[str]] = {}
    for name in spaces:
        try:
            size = spaces[name].size
        except InputError:  # this model's config knows nothing of it
            continue
        if size and size in shape:
            sizes.setdefault(size, []).append(name)
    known = [
        f"{size}: {' or '.join(sizes[size])}" for size in dict.fromkeys(shape) if size in sizes
    ]
    return f" (spaces of these sizes: {'; '.join(known[:4])})" if known else ""


def _index(rule: TensorRule, numbers: Sequence[int], spaces: ModelSpaces) -> dict[str, int]:
    """The position in each index space, from the number in each pair of braces."""
    index: dict[str, int] = {}
    for slot, at in zip(rule.slots(), numbers, strict=True):
        index |= split(slot, at, spaces)
    if rule.apart:  # the layers that predict further tokens are numbered from 0, too
        index |= {
            one: at + (spaces[one].size or 0) for one, at in index.items() if spaces.is_ahead(one)
        }
    return index | spaces.following(index)


def _plain(name: str) -> str:
    """A tensor's name for people, without quotes if it is as names are."""
    return name if name.isprintable() and len(name) < 160 else quoted(name)


def check_shape(
    name: str, shape: tuple[int, ...], placement: Placement, spaces: ModelSpaces
) -> None:
    """A tensor's dimensions and numbers are those that the config makes of its row.

    Raises:
        InputError: they are not.
    """
    axes = placement.rule.axes
    declared = tuple(axis.size(spaces) for axis in axes)
    text = " ".join(map(str, axes))
    if not fits(shape, placement.rule, spaces):
        wanted = ", ".join("any" if size is None else str(size) for size in declared)
        raise InputError(
            f"{_plain(name)} has shape {quoted(shape)}, but config.json makes it ({wanted}) as "
            f"{text!r}. Is this the config of these weights?"
        )
    for index, position in placement.index.items():
        size = spaces.limit(index)
        if size is not None and position >= size:
            raise InputError(
                f"{_plain(name)}: config.json has only {size} of {index!r}. Is this the config of "
                "these weights? What is beyond and predicts further tokens, transformers passes "
                "over: load the model with it and save it again, which leaves that out."
            )
    for axis in (*axes, *placement.rule.slots()):  # what selects an instance must itself be bound
        for space in axis.names():
            for outer in spaces[space].per:
                spaces[outer]


def check_complete(
    rules: Sequence[TensorRule],
    placements: Mapping[str, Placement],
    spaces: Mapping[str, Space],
    fused: Mapping[str, str],
) -> None:
    """Every required tensor is there, for every position of its index spaces.

    Args:
        rules: the rows of this model.
        placements: by tensor name.
        spaces: of this model.
        fused: templates of rows whose tensors another row's may stand for: the experts of a layer,
            all in one.

    Raises:
        InputError: one is not.
    """
    stacks = {rule.templates[0]: rule for rule in rules}
    found = {placement.place for placement in placements.values()}
    prefixes = {rule.prefix for rule in rules}
    prefixed = {prefix: any(n.startswith(prefix) for n in placements) for prefix in prefixes}
    for rule in rules:
        if rule.optional:
            continue
        indices = rule.indices()
        for at in _positions([spaces[name].size or 0 for name in indices]):
            index = dict(zip(indices, at, strict=True))
            if not rule.stands(index):
                continue
            stack = stacks.get(fused.get(rule.templates[0], ""))
            if stack is not None:
                shared = {name: at for name, at in index.items() if name in stack.indices()}
                if Placement(stack, shared).place in found:
                    continue
            if Placement(rule, index).place not in found:
                before = prefixed[rule.prefix] * rule.prefix
                names = [before + rule.name(index, spaces, n) for n in range(len(rule.templates))]
                missing = " or ".join(map(repr, dict.fromkeys(names)))
                raise InputError(
                    f"the folder lacks the tensor {missing} that its config.json calls for. Is "
                    "the download complete?"
                )


def _positions(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All places in a grid, in order, without room for a list of them."""
    if not sizes:
        yield ()
        return
    for first in range(sizes[0]):
        for rest in _positions(sizes[1:]):
            yield (first, *rest)


def check_renamed(placements: Mapping[str, Placement], spaces: Spaces) -> None:
    """Tensors that may take each other's place are all there, under one spelling each."""
    kinds: dict[Any, dict[Any, str]] = {}
    for name, placement in placements.items():
        moving = {n for n in placement.rule.indices() if spaces[n].group}
        if moving:
            rest = tuple((n, at) for n, at in placement.index.items() if n not in moving)
            here = tuple(placement.index[n] for n in sorted(moving))
            known = kinds.setdefault((id(placement.rule), rest, tuple(sorted(moving))), {})
            if here in known:
                raise InputError(
                    f"{quoted(name)} and {quoted(known[here])} are two spellings of one tensor."
                )
            known[here] = name
    for (_, _, moving), known in kinds.items():
        count = math.prod(spaces[name].size or 1 for name in moving)
        if len(known) < count:
            raise InputError(
                f"config.json makes {count} tensors like {min(known.values())!r}, numbered by "
                f"{' and '.join(moving)}; the folder has {len(known)}. Is the download complete?"
            )
