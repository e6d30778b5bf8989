"""One model's tensors, each placed by a row of its declaration, and what must be true of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.architectures.declaration import GUIDE
from unmergeable.architectures.rules import Declaration, TensorRule
from unmergeable.architectures.sizes import evaluate
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Space, Spaces, split


@dataclass(frozen=True)
class Placement:
    """Where one tensor lives.

    Attributes:
        rule: the declaration's row.
        index: the position in each index space that the tensor's name gives.
    """

    rule: TensorRule
    index: Mapping[str, int]

    @property
    def place(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """The same for two spellings of one tensor's name only."""
        return id(self.rule), tuple(sorted(self.index.items()))


class ModelSpaces(Mapping[str, Space]):
    """Spaces whose sizes are computed when first asked for: a model need not have them all."""

    def __init__(
        self, rules: Mapping[str, Any], config: Mapping[str, Any], exposed: set[str], cls: str
    ) -> None:
        self._rules, self._config, self._exposed, self._class = rules, config, exposed, cls
        self._bound: dict[str, Space] = {}

    def __getitem__(self, name: str) -> Space:
        if name not in self._bound:
            rule = self._rules[name]
            config = self._config[rule.within] if rule.within else self._config
            size = None if rule.size is None else evaluate(rule.size, config)
            group, fixed = GROUPS[rule.group] if rule.group else None, rule.fixed
            if group and name in self._exposed:
                who = self._class or "config.json names no model class, and a bare model"
                group, fixed = None, f"{who} hands it to its users as output"
            if size == 0:
                group, fixed = None, "this model has no such positions"
            self._bound[name] = Space(name, size, group, fixed, rule.per)
        return self._bound[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def bound(self) -> dict[str, Space]:
        """The spaces in use, in the order of the data file."""
        return {name: self._bound[name] for name in self._rules if name in self._bound}


def place(
    name: str,
    rules: Sequence[TensorRule],
    declaration: Declaration,
    model_class: str,
    spaces: Spaces,
    shape: Sequence[int] = (),
) -> Placement:
    """The row that a tensor fits, and where its name says it stands.

    Args:
        name: as stored.
        rules: the rows of this model.
        declaration: whose rows these are.
        model_class: empty if the config names none.
        spaces: of this model.
        shape: the tensor's dimensions, for the advice on one that nobody has declared.

    Raises:
        UnsupportedError: no row fits it.
        InputError: a tensor of a head, where the config names no class.
    """
    for rule in rules:
        numbers = rule.match(name)
        if numbers is not None:
            return Placement(rule, _index(rule, list(numbers.values()), spaces))
    if not model_class:
        heads = declaration.classes.items()
        if owners := [cls for cls, rule in heads if any(row.match(name) for row in rule.tensors)]:
            raise InputError(
                f"config.json names no model class, so nobody knows how {name!r} is used. Add "
                f'"architectures": ["{owners[0]}"] to it, or another of {", ".join(owners)}.'
            )
    model_type = declaration.model_type
    raise UnsupportedError(
        f"nobody has declared the tensor {name!r} for {model_type!r}. Left alone it would break "
        f"the model, so nothing was done. If you know its axes, add a line {_line(name, rules)} to "
        f"{model_type}.toml{_fitting(shape, spaces)}: see {GUIDE}."
    )


def _line(name: str, rules: Sequence[TensorRule]) -> str:
    """The line of a data file that would declare a tensor, without its axes."""
    prefix = next((rule.prefix for rule in rules if rule.prefix), "")
    template = re.sub(r"\.\d+\.", ".{layer}.", name.removeprefix(prefix), count=1)
    return f'"{re.sub(r"experts[.][0-9]+[.]", "experts.{expert}.", template)}" = "..."'


def _fitting(shape: Sequence[int], spaces: Spaces) -> str:
    """Which spaces have the sizes of a tensor's axes."""
    sizes: dict[int, list[str]] = {}
    for name in spaces:
        try:
            size = spaces[name].size
        except InputError:  # this model's config knows nothing of it
            continue
        if size in shape and size:
            sizes.setdefault(size, []).append(name)
    known = [
        f"{size}: {' or '.join(sizes[size])}" for size in dict.fromkeys(shape) if size in sizes
    ]
    return f" (spaces of these sizes: {'; '.join(known)})" if known else ""


def _index(rule: TensorRule, numbers: Sequence[int], spaces: Spaces) -> dict[str, int]:
    """The position in each index space, from the number in each pair of braces."""
    index: dict[str, int] = {}
    for slot, at in zip(rule.slots(), numbers, strict=True):
        index |= split(slot, at, spaces)
    return index


def check_shape(
    name: str, shape: tuple[int, ...], placement: Placement, spaces: Mapping[str, Space]
) -> None:
    """A tensor's dimensions and numbers are those that the config makes of its row.

    Raises:
        InputError: they are not.
    """
    axes = placement.rule.axes
    declared = tuple(axis.size(spaces) for axis in axes)
    text = " ".join(map(str, axes))
    if len(shape) != len(declared) or any(
        want is not None and want != have for want, have in zip(declared, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in declared)
        raise InputError(
            f"{name} has shape {shape}, but config.json makes it ({wanted}) as {text!r}. Is this "
            "the config of these weights?"
        )
    for index, position in placement.index.items():
        size = spaces[index].size
        if size is not None and position >= size:
            raise InputError(f"{name}: config.json has only {size} of {index!r}.")
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
    prefixed = {rule.prefix: any(n.startswith(rule.prefix) for n in placements) for rule in rules}
    for rule in rules:
        if rule.optional:
            continue
        indices = rule.indices()
        for at in itertools.product(*(range(spaces[name].size or 0) for name in indices)):
            index = dict(zip(indices, at, strict=True))
            stack = stacks.get(fused.get(rule.templates[0], ""))
            if stack is not None:
                shared = {name: at for name, at in index.items() if name in stack.indices()}
                if Placement(stack, shared).place in found:
                    continue
            if Placement(rule, index).place not in found:
                before = prefixed[rule.prefix] * rule.prefix
                names = [before + rule.name(index, spaces, n) for n in range(len(rule.templates))]
                missing = " or ".join(map(repr, names))
                raise InputError(
                    f"the folder lacks the tensor {missing} that its config.json calls for. Is "
                    "the download complete?"
                )


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
                raise InputError(f"{name!r} and {known[here]!r} are two spellings of one tensor.")
            known[here] = name
    for (_, _, moving), known in kinds.items():
        count = math.prod(spaces[name].size or 1 for name in moving)
        if len(known) < count:
            raise InputError(
                f"config.json makes {count} tensors like {min(known.values())!r}, numbered by "
                f"{' and '.join(moving)}; the folder has {len(known)}. Is the download complete?"
            )
