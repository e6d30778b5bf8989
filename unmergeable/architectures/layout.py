"""A declaration bound to one model: every tensor placed in the model's spaces, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.composition import composed
from unmergeable.architectures.declaration import declaration_for
from unmergeable.architectures.model_class import ModelClass, embedder_of
from unmergeable.architectures.placing import (
    ModelSpaces,
    Place,
    Placement,
    check_complete,
    check_renamed,
    check_shape,
    place,
    room,
)
from unmergeable.architectures.quantised import ONE, check_left_over, halves, quantised
from unmergeable.architectures.rules import Declaration, NormRule, ScoreNormRule, TensorRule
from unmergeable.architectures.unplaced import Unplaced
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.notation import Axis, Gauge, Space, number, split
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

if TYPE_CHECKING:
    from unmergeable.checkpoint.folder import ModelFolder


@dataclass(frozen=True)
class Layout:
    """One model's spaces, and where each of its tensors lives in them.

    Attributes:
        family: for people.
        model_class: the transformers class; empty if the config names none.
        spaces: by name, with sizes.
        placements: by tensor name; every tensor of the model has one.
        quantised: the method by which its weights are quantised; empty if they are not.
        headless: why its users read hidden states, although its class has a head; empty if they
            do not.
        norms: whose gains may move into what reads them; see `architectures.norms`.
        normed: norms with all that writes what they normalise; see `architectures.normed`.
        post_norms: LayerNorms behind blocks; see `architectures.post_norms`.
        exposed: the spaces that the model class hands to its users.
        bound: beginnings of names of what nothing may be added to unseen.
        softmax: beginnings of names of what only a softmax reads; see `architectures.directions`.
        centred: the spaces in whose order a lock changes no signs, as a LayerNorm sees them.
        score_norms: norms of queries and keys; see `architectures.score_norms`.
        sized: spaces, and beginnings of names, that no size of a stream passes; see
            `architectures.streams`.
    """

    family: str
    model_class: str
    spaces: Mapping[str, Space]
    placements: Mapping[str, Placement]
    quantised: str = ""
    headless: str = ""
    norms: tuple[NormRule, ...] = ()
    normed: tuple[NormRule, ...] = ()
    post_norms: tuple[NormRule, ...] = ()
    exposed: frozenset[str] = frozenset()
    bound: tuple[str, ...] = ()
    softmax: tuple[str, ...] = ()
    centred: frozenset[str] = frozenset()
    score_norms: tuple[ScoreNormRule, ...] = ()
    sized: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, folder: ModelFolder) -> Layout:
        """Places every tensor of a folder; see `of`."""
        return cls.of(folder.config, folder.shapes, embedder_of(folder))

    @classmethod
    def of_lock(cls, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Layout:
        """Places every tensor of a model whose lock is known: see `of`.

        What moved, the lock's settings say. So nothing stays here for what users read: files beside
        the weights, which anyone may add or take away, change nothing.
        """
        return cls.of(config, shapes, outputs_stay=False)

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        shapes: Mapping[str, Sequence[int]],
        embedder: str = "",
        *,
        outputs_stay: bool = True,
    ) -> Layout:
        """Places every tensor of a model.

        Args:
            config: the model's config.json.
            shapes: each stored tensor's name and dimensions.
            embedder: the file beside them that makes it an embedding model, whatever class its
                config names; empty if there is none.
            outputs_stay: whether what users read keeps its coordinates.

        Raises:
            UnsupportedError: a model type, a model class or a tensor that nobody has declared; a
                way of quantising that cannot be moved.
            InputError: a tensor that is missing, or whose shape disagrees with the config; a config
                that says two things at once.
        """
        check_left_over(config, shapes, lambda plain: cls.of(plain, shapes, embedder))
        declaration, config = composed(declaration_for(config.get("model_type")), config)
        packed = quantised(config, shapes)
        model = ModelClass.of(declaration, config, shapes, embedder)
        rules = model.rules
        known = {**declaration.spaces, ONE.name: ONE} if packed else declaration.spaces
        exposed = model.exposed if outputs_stay else {}
        spaces = ModelSpaces(known, config, exposed, room(shapes))
        unplaced = Unplaced(rules, declaration, model.name, spaces, config, shapes)
        placements = {}
        for name, shape in shapes.items():
            scaled = packed.weight_of(name) if packed else None
            whole = scaled[0] if scaled and scaled[0] in shapes else name
            placement = place(whole, rules, spaces, shapes.get(whole))
            if placement is None:
                raise unplaced.why(whole)
            if packed and scaled and whole != name:  # a scale lives where its weight does
                placement = packed.placed(scaled[1], shape, placement)
            placements[name] = placement
        for name, placement in placements.items():
            check_shape(name, tuple(shapes[name]), placement, spaces)
        check_complete(rules, placements, spaces, declaration.fused)
        check_renamed(placements, spaces)
        bound, method = spaces.bound(), packed.method if packed else ""
        if packed:
            bound = packed.spaces(bound, placements, shapes)
        norms, handed = tuple(declaration.norms.values()), frozenset(model.exposed)
        return cls(
            declaration.family,
            model.name,
            bound,
            placements,
            method,
            model.headless,
            norms,
            tuple(declaration.normed.values()),
            tuple(declaration.post_norms.values()),
            handed,
            tuple(declaration.bound),
            (*declaration.softmax, *model.softmax),
            _unsigned(declaration),
            tuple(declaration.score_norms.values()),
            tuple(declaration.sized),
        )

    def check_plain(self, what: str) -> None:
        """Refuses weights that are only half of a number, the other half being scales.

        Args:
            what: was asked for, as in "merged".

        Raises:
            UnsupportedError: they are quantised.
        """
        if self.quantised:
            raise UnsupportedError(halves(self.quantised, what))

    def tensor_map(self, name: str, gauge: Gauge) -> TensorMap | StackMap:
        """The change of coordinates of what the tensor of that name holds, under a gauge.

        Where `source` says so, it then stands under another name.
        """
        placement = self.placements[name]
        axes, index = placement.rule.axes, placement.index
        if not self.is_stack(name):
            return self._matrix_map(axes, gauge, index)
        order = axes[0].map(self.spaces, gauge, index).source
        slices = [
            self._matrix_map(axes[1:], gauge, {**index, **split(axes[0], old, self.spaces)})
            for old in range(len(order))
        ]
        return StackMap(order, tuple(slices))

    def source(self, name: str, gauge: Gauge) -> str:
        """The tensor whose content, moved by its `tensor_map`, stands under a name in the end.

        Experts that have tensors of their own change places by their tensors' names.
        """
        return self._renamed(name, lambda axis, index: axis.map(self.spaces, gauge, index).source)

    def destination(self, name: str, gauge: Gauge) -> str:
        """The name under which the content of a tensor stands in the end: `source` undone."""
        return self._renamed(
            name,
            lambda axis, index: np.argsort(axis.map(self.spaces, gauge, index).source),
        )

    def stored_name(self, spelled: str) -> str | None:
        """The name under which this model stores a tensor, however a name of it is spelled.

        Folders differ in whether names begin with the trunk's prefix, and transformers names some
        tensors otherwise in memory than on disk.

        Returns:
            None if no tensor of this model goes by that name.
        """
        if spelled in self.placements:
            return spelled
        for rule in self._rules:
            index = rule.match(spelled)
            if index is not None and (name := self._names.get(Placement(rule, index).place)):
                return name
        return None

    def movable(self) -> dict[str, Space]:
        """The spaces that have a group and that some tensor of this model lives in."""
        used = {
            name
            for placement in self.placements.values()
            for axis in (*placement.rule.axes, *placement.rule.slots())
            for name in axis.names()
        }
        return {n: space for n, space in self.spaces.items() if space.group and n in used}

    def instances(self, space: Space) -> Iterator[tuple[int, ...]]:
        """All instances of a space that this model has: one per layer and group, say."""
        return iter(sorted(self._instances.get(space.name, ())))

    @cached_property
    def numbering(self) -> frozenset[str]:
        """The movable spaces that number whole tensors or slices of one: experts, not heads."""
        stacks = (p.rule.axes[0] for n, p in self.placements.items() if self.is_stack(n))
        slots = (slot for p in self.placements.values() for slot in p.rule.slots())
        names = {name for axis in (*stacks, *slots) for name in axis.names()}
        return frozenset(name for name in names if self.spaces[name].group)

    @cached_property
    def _names(self) -> dict[Place, str]:
        """The tensors' names by their places; the first, where one tensor is stored twice."""
        return {place.place: name for name, place in reversed(list(self.placements.items()))}

    @cached_property
    def _rules(self) -> list[TensorRule]:
        """The rows that some tensor of this model fits."""
        return list({id(p.rule): p.rule for p in self.placements.values()}.values())

    @cached_property
    def _instances(self) -> dict[str, set[tuple[int, ...]]]:
        """The instances of each space that some tensor lives in."""
        found: dict[str, set[tuple[int, ...]]] = {}
        seen = set()
        for placement in self.placements.values():
            for axis in (*placement.rule.axes, *placement.rule.slots()):
                for name in axis.names():
                    per = self.spaces[name].per
                    known = tuple(placement.index.get(outer) for outer in per)
                    if (name, known) not in seen:
                        seen.add((name, known))
                        ranges = [
                            range(self.spaces[outer].size or 0) if at is None else (at,)
                            for outer, at in zip(per, known, strict=True)
                        ]
                        found.setdefault(name, set()).update(itertools.product(*ranges))
        return found

    def _matrix_map(
        self, axes: Sequence[Axis], gauge: Gauge, index: Mapping[str, int]
    ) -> TensorMap:
        return TensorMap.of(
            [
                None  # a fixed axis may be of any size, so it has no map
                if all(self.spaces[space].group is None for space in axis.names())
                else axis.map(self.spaces, gauge, index)
                for axis in axes
            ]
        )

    def is_stack(self, name: str) -> bool:
        """Whether a tensor's other axes have an instance for each position of its first one."""
        axes = self.placements[name].rule.axes
        first = set(axes[0].names()) if axes else set()
        others = {name for axis in axes[1:] for name in axis.names()}
        return any(first & set(self.spaces[name].per) for name in others)

    def _renamed(self, name: str, order: Callable[[Axis, Mapping[str, int]], Index]) -> str:
        placement = self.placements[name]
        index = dict(placement.index)
        for slot in placement.rule.slots():
            if any(self.spaces[one].group for one in slot.names()):
                here = number(slot, placement.index, self.spaces)
                there = int(order(slot, placement.index)[here])
                index |= split(slot, there, self.spaces)
        if index == placement.index:
            return name
        return self._names[Placement(placement.rule, index).place]


def _unsigned(declaration: Declaration) -> frozenset[str]:
    """The spaces of a whole model whose signs something sees; of a norm's, that is the mean."""
    rules = declaration.spaces.values()
    return frozenset(one.name for one in rules if one.group == "permutation" and not one.per)
