"""A declaration bound to one model: every tensor placed in the model's spaces, or refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.architectures.declaration import (
    GUIDE,
    Declaration,
    TensorRule,
    declaration_for,
)
from unmergeable.architectures.sizes import evaluate
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Gauge, Space
from unmergeable.gauge.tensor_map import TensorMap


@dataclass(frozen=True)
class Placement:
    """Where one tensor lives.

    Attributes:
        rule: the declaration's row.
        index: the position in each index space that the tensor's name gives.
    """

    rule: TensorRule
    index: Mapping[str, int]


@dataclass(frozen=True)
class Layout:
    """One model's spaces, and where each of its tensors lives in them.

    Attributes:
        family: for people.
        model_class: the transformers class; empty if the config names none.
        spaces: by name, with sizes.
        placements: by tensor name; every tensor of the model has one.
    """

    family: str
    model_class: str
    spaces: Mapping[str, Space]
    placements: Mapping[str, Placement]

    @classmethod
    def of(cls, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Layout:
        """Places every tensor of a model.

        Args:
            config: the model's config.json.
            shapes: each stored tensor's name and dimensions.

        Raises:
            UnsupportedError: a model type, a model class or a tensor that nobody has declared.
            InputError: a tensor that is missing, or whose shape disagrees with the config.
        """
        declaration = declaration_for(config.get("model_type")).joined(shapes)
        named = config.get("architectures") or [""]
        if not isinstance(named, list) or not isinstance(named[0], str):
            raise InputError(f'config.json: "architectures" is {named!r}, not a list of names.')
        model_class = named[0]
        if model_class:
            if model_class not in declaration.classes:
                raise UnsupportedError(
                    f"the model class {model_class!r} is not declared for {declaration.family}. "
                    f"Declared: {', '.join(declaration.classes)}. To add it, see {GUIDE}."
                )
            chosen = [declaration.classes[model_class]]
        else:
            # Nothing says what the model hands out, so whatever any class hands out stays.
            chosen = list(declaration.classes.values())
        exposed = {space for rule in chosen for space in rule.outputs}
        spaces = _Spaces(declaration.spaces, config, exposed, model_class)
        rules = [*declaration.tensors]
        if model_class:
            lacks = chosen[0].lacks
            rules = [rule for rule in rules if not rule.templates[0].startswith(lacks)]
            rules += chosen[0].tensors
        placements = {name: _place(name, rules, declaration, model_class) for name in shapes}
        for name, placement in placements.items():
            _check_shape(name, tuple(shapes[name]), placement, spaces)
        _check_complete(rules, placements, spaces)
        return cls(declaration.family, model_class, spaces.bound(), placements)

    def tensor_map(self, name: str, gauge: Gauge) -> TensorMap:
        """The change of coordinates of one tensor under a gauge."""
        placement = self.placements[name]
        return TensorMap.of(
            [
                None  # a fixed axis may be of any size, so it has no map
                if all(self.spaces[space].group is None for space in axis.names())
                else axis.map(self.spaces, gauge, placement.index)
                for axis in placement.rule.axes
            ]
        )

    def movable(self) -> dict[str, Space]:
        """The spaces that have a group and that some tensor of this model lives in."""
        used = {
            name
            for placement in self.placements.values()
            for axis in placement.rule.axes
            for name in axis.names()
        }
        return {n: space for n, space in self.spaces.items() if space.group and n in used}

    def instances(self, space: Space) -> Iterator[tuple[int, ...]]:
        """All instances of a space: one per layer and group, say."""
        sizes = [self.spaces[name].size or 0 for name in space.per]
        return itertools.product(*map(range, sizes))


class _Spaces(Mapping[str, Space]):
    """Spaces whose sizes are computed when first asked for: a model need not have them all."""

    def __init__(
        self, rules: Mapping[str, Any], config: Mapping[str, Any], exposed: set[str], cls: str
    ) -> None:
        self._rules, self._config, self._exposed, self._class = rules, config, exposed, cls
        self._bound: dict[str, Space] = {}

    def __getitem__(self, name: str) -> Space:
        if name not in self._bound:
            rule = self._rules[name]
            size = None if rule.size is None else evaluate(rule.size, self._config)
            group, fixed = GROUPS[rule.group] if rule.group else None, rule.fixed
            if group and name in self._exposed:
                who = self._class or "config.json names no model class, and a bare model"
                group, fixed = None, f"{who} hands it to its users as output"
            self._bound[name] = Space(name, size, group, fixed, rule.per)
        return self._bound[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def bound(self) -> dict[str, Space]:
        """The spaces in use, in the order of the data file."""
        return {name: self._bound[name] for name in self._rules if name in self._bound}


def _place(
    name: str, rules: Sequence[TensorRule], declaration: Declaration, model_class: str
) -> Placement:
    for rule in rules:
        index = rule.match(name)
        if index is not None:
            return Placement(rule, index)
    if not model_class:
        heads = declaration.classes.items()
        if owners := [cls for cls, rule in heads if any(row.match(name) for row in rule.tensors)]:
            raise InputError(
                f"config.json names no model class, so nobody knows how {name!r} is used. Add "
                f'"architectures": ["{owners[0]}"] to it, or another of {", ".join(owners)}.'
            )
    model_type = declaration.model_type
    template = re.sub(r"\.\d+\.", ".{layer}.", name, count=1)
    raise UnsupportedError(
        f"nobody has declared the tensor {name!r} for {model_type!r}. Left alone it would break "
        f'the model, so nothing was done. If you know its axes, add a line "{template}" = "..." '
        f"to {model_type}.toml: see {GUIDE}."
    )


def _check_shape(
    name: str, shape: tuple[int, ...], placement: Placement, spaces: Mapping[str, Space]
) -> None:
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
    for axis in axes:  # a space that selects an instance must itself be bound
        for space in axis.names():
            for outer in spaces[space].per:
                spaces[outer]


def _check_complete(
    rules: Sequence[TensorRule], placements: Mapping[str, Placement], spaces: Mapping[str, Space]
) -> None:
    """Every required tensor is there, for every position of its index spaces."""
    found = {(id(p.rule), tuple(sorted(p.index.items()))) for p in placements.values()}
    for rule in rules:
        if rule.optional:
            continue
        names = rule.indices()
        for positions in itertools.product(*(range(spaces[name].size or 0) for name in names)):
            index = dict(zip(names, positions, strict=True))
            if (id(rule), tuple(sorted(index.items()))) not in found:
                prefixed = any(name.startswith(rule.prefix) for name in placements)
                missing = prefixed * rule.prefix + rule.templates[0].format(**index)
                raise InputError(
                    f"the folder lacks the tensor {missing!r} that its config.json calls for. Is "
                    "the download complete?"
                )
