"""What a data file says of a family: its spaces, the rows of its tensors, its classes, variants."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from unmergeable.architectures.sizes import Numbered, count, holds
from unmergeable.gauge.notation import Axis, Spaces, number, parse, rename


@dataclass(frozen=True)
class Follows:
    """A position that is another one's, up to a point; from there on, the last one of its kind.

    Attributes:
        index: the index space that it is the position of.
        until: from which position on those of the same kind before it stand for it: layers that
            read the keys and values of another.
        alike: the key of the list in a config that says what kind each position is of.
    """

    index: str
    until: str
    alike: str

    def position(self, at: int, config: Mapping[str, Any]) -> int:
        """The position that stands for another one.

        Args:
            at: the other one.
            config: of the model, or of the part.
        """
        until, kinds = count(self.until, config), config.get(self.alike)
        if until is None or at < until or not isinstance(kinds, list) or at >= len(kinds):
            return at
        before = (one for one in range(until - 1, -1, -1) if kinds[one : one + 1] == [kinds[at]])
        return next(before, at)


@dataclass(frozen=True, eq=False)
class Kind:
    """Which positions of an index space a row holds for.

    Attributes:
        index: the index space.
        condition: on its position and a config; see `sizes.holds`.
        config: of the model, or of the part.
    """

    index: str
    condition: str
    config: Mapping[str, Any]
    _known: dict[int, bool] = field(default_factory=dict)

    def has(self, at: int) -> bool:
        """Whether a position is of this kind."""
        if at not in self._known:
            self._known[at] = holds(self.condition, Numbered(self.config, self.index, at))
        return self._known[at]

    @property
    def is_empty(self) -> bool:
        """Whether its condition is about the config alone, which does not meet it."""
        return not re.search(rf"\b{self.index}\b", self.condition) and not self.has(0)

    def renamed(self, names: Mapping[str, str]) -> Kind:
        """The same where the index space has another name, in the condition too."""
        new = names.get(self.index, self.index)
        condition = re.sub(rf"\b{self.index}\b", new, self.condition)
        return Kind(new, condition, self.config)


@dataclass(frozen=True)
class SpaceRule:
    """A space before a config gives it a size; fields as in `gauge.notation.Space`.

    Attributes:
        within: the key of the nested config that its size is about, if it is of a part.
        ahead: how many positions there may be beyond its size, of layers that predict further
            tokens; empty if none.
        follows: where its position comes from that of another index space; None for one that
            tensors' names number themselves.
    """

    name: str
    size: str | None
    group: str | None
    fixed: str
    per: tuple[str, ...]
    within: str = ""
    ahead: str = ""
    follows: Follows | None = None

    def changed(self, changes: Mapping[str, str]) -> SpaceRule:
        """The same space with another size, and with another group or a reason why it is fixed."""
        size = changes.get("size", self.size)
        if not {"group", "fixed"} & changes.keys():
            return replace(self, size=size)
        return replace(self, size=size, group=changes.get("group"), fixed=changes.get("fixed", ""))

    def renamed(self, names: Mapping[str, str]) -> SpaceRule:
        """The same space under another name, among others with other names."""
        follows = self.follows
        if follows is not None:
            follows = replace(follows, index=names.get(follows.index, follows.index))
        per = tuple(names.get(one, one) for one in self.per)
        return replace(self, name=names.get(self.name, self.name), per=per, follows=follows)


@dataclass(frozen=True)
class TensorRule:
    """The axes of every tensor whose name fits a template.

    Attributes:
        templates: the spellings of its name, with index spaces in braces: "h.{layer}.ln_1.bias".
            The last one is that of transformers' modules in memory.
            Several spaces in one pair of braces number tensors as the axis that is their product
            would: "experts.{cluster member}.w1".
        axes: one per dimension.
        optional: whether a model may lack it.
        prefix: what may stand before the name.
        layouts: whether other rows have the same names, and other axes.
        only: the kinds of positions that it holds for, each with the index space in its name.
        kinds: the same, for one config.
        apart: whether its first name is beside the trunk and in no part of it: that of a layer that
            predicts further tokens, with a number of its own.
    """

    templates: tuple[str, ...]
    axes: tuple[Axis, ...]
    optional: bool
    prefix: str
    layouts: bool = False
    only: tuple[tuple[str, str], ...] = ()
    kinds: tuple[Kind, ...] = ()
    apart: bool = False

    def match(self, name: str) -> dict[str, int] | None:
        """The number in each pair of braces, or None if a name is not one of these tensors'."""
        for template, pattern in zip(
            self.templates, patterns(self.templates, self.prefix), strict=True
        ):
            if found := pattern.fullmatch(name):
                numbers = dict(zip(_braces(template), map(int, found.groups()), strict=True))
                return numbers if self.stands(numbers) else None
        return None

    def stands(self, index: Mapping[str, int]) -> bool:
        """Whether it holds for these positions of index spaces."""
        return all(kind.has(index[kind.index]) for kind in self.kinds)

    def under(self, kinds: Mapping[str, str], config: Mapping[str, Any]) -> TensorRule:
        """The same row for one config.

        Args:
            kinds: conditions, by the names of kinds.
            config: of the model, or of the part.
        """
        if not self.only:
            return self
        return replace(self, kinds=tuple(Kind(i, kinds[k], config) for i, k in self.only))

    def spelling(self, name: str) -> str:
        """The template that a name fits, after what stands before it."""
        found = zip(self.templates, patterns(self.templates, self.prefix), strict=True)
        template = next(template for template, pattern in found if pattern.fullmatch(name))
        return (self.prefix if name.startswith(self.prefix) else "") + template

    def name(self, index: Mapping[str, int], spaces: Spaces, spelling: int = 0) -> str:
        """One of the spellings of a tensor's name, without the prefix."""
        name = self.templates[spelling]
        for text, slot in zip(_braces(name), self.slots(), strict=True):
            name = name.replace(f"{{{text}}}", str(number(slot, index, spaces)))
        return name

    def slots(self) -> tuple[Axis, ...]:
        """The index spaces in each pair of braces, as an axis."""
        return _slots(self.templates[0])

    def indices(self) -> tuple[str, ...]:
        """The index spaces in the name."""
        return tuple(name for slot in self.slots() for name in slot.names())

    def begins_with(self, beginnings: tuple[str, ...]) -> bool:
        """Whether its name, without the prefix, has one of these beginnings."""
        return self.templates[0].startswith(beginnings)

    def begins_with_any(self, beginnings: tuple[str, ...]) -> bool:
        """Whether any spelling of its name, without the prefix, has one of these beginnings."""
        return any(template.startswith(beginnings) for template in self.templates)

    def spelled_also(self, starts: tuple[str, ...]) -> TensorRule:
        """The same row where these may stand between the prefix and the name."""
        if not starts:
            return self
        more = (start + name for start in starts for name in self.templates)
        return replace(self, templates=(*self.templates, *more, self.templates[-1]))

    def spelled_once(self, starts: tuple[str, ...]) -> TensorRule:
        """The same row where these stand nowhere."""
        if not starts:
            return self
        kept = (name for name in self.templates if not name.startswith(starts))
        return replace(self, templates=tuple(dict.fromkeys(kept)))

    def renamed(self, names: Mapping[str, str]) -> TensorRule:
        """The same row with other names of spaces on its axes."""
        return replace(self, axes=tuple(rename(axis, names) for axis in self.axes))

    def spaces(self) -> set[str]:
        """The spaces on its axes and in its names."""
        return {name for axis in self.axes for name in axis.names()} | set(self.indices())


@dataclass(frozen=True)
class ClassRule:
    """What one model class adds to its family's trunk, and leaves out of it.

    Attributes:
        tensors: its head.
        outputs: the spaces that it hands to its users, and that must therefore stay.
        lacks: beginnings of names of the trunk that it has no tensors of: a decoder, or one of two
            towers.
    """

    tensors: tuple[TensorRule, ...]
    outputs: tuple[str, ...]
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NormRule:
    """A norm whose output certain matrices read, and nothing else; see `architectures.norms`.

    Attributes:
        names: beginnings of the names of its gain, and of what is added behind it, without prefix.
        readers: beginnings of names; of these, the tensors that read the norm's space.
        offset: what a model adds to the stored gain.
        layer: the index space of whose positions this holds for the last one alone, or for those of
            a kind; empty if for all.
        kind: the kind's name; empty if it is about the last position.
        of: the kind, for one config.
        side: of the space that the matrices share with the gain: they read what a norm gives, and
            write what a layer scale takes, or what a norm normalises, or are the block before it.
        each: whether each position of the gain has a norm of its own.
    """

    names: tuple[str, ...]
    readers: tuple[str, ...]
    offset: float = 0.0
    layer: str = ""
    kind: str = ""
    of: Kind | None = None
    side: str = "read"
    each: bool = False

    def is_norm(self, rule: TensorRule) -> bool:
        """Whether a row is the norm's gain or bias."""
        return rule.begins_with_any(tuple(f"{name}." for name in self.names)) or any(
            template in self.names for template in rule.templates
        )

    def is_read_by(self, rule: TensorRule) -> bool:
        """Whether a row's tensors read the norm's output, if they read its space."""
        return rule.begins_with_any(self.readers)

    def within(self, starts: tuple[str, ...]) -> NormRule:
        """The same norm in a model whose names begin so."""
        names, inside = (
            tuple(start + name for start in starts for name in given)
            for given in (self.names, self.readers)
        )
        return replace(self, names=names, readers=(*inside, *self.readers))

    def renamed(self, names: Mapping[str, str]) -> NormRule:
        """The same norm, with other names of spaces in the braces of names."""
        own, readers = (
            tuple(spelled(name, names) for name in given) for given in (self.names, self.readers)
        )
        of = self.of and self.of.renamed(names)
        layer = names.get(self.layer, self.layer)
        return replace(self, names=own, readers=readers, layer=layer, of=of)

    def under(self, kinds: Mapping[str, str], config: Mapping[str, Any]) -> NormRule:
        """The same norm for one config; see `TensorRule.under`."""
        if not self.kind:
            return self
        return replace(self, of=Kind(self.layer, kinds[self.kind], config))


@dataclass(frozen=True)
class ScoreNormRule:
    """Norms of queries and keys; see `architectures.score_norms`.

    Attributes:
        query: beginnings of the names of the queries' gains and biases.
        query_rows: beginnings of the names of the matrix whose output they normalise, and its bias.
        key: as `query`, of the keys.
        key_rows: as `query_rows`, of the keys.
        planes: how rotary positions pair what they turn; "none" if there are none.
        behind: whether the norms stand behind the positions.
        centred: whether the norms subtract a mean.
        clipped: whether what they make is clipped, so that their gains cannot change.
        bounded: whether what they normalise is clipped, so that its length is seen.
        offset: what a model adds to the stored gains.
    """

    query: tuple[str, ...]
    query_rows: tuple[str, ...]
    key: tuple[str, ...]
    key_rows: tuple[str, ...]
    planes: str
    behind: bool = False
    centred: bool = False
    clipped: bool = False
    bounded: bool = False
    offset: float = 0.0

    def renamed(self, names: Mapping[str, str]) -> ScoreNormRule:
        """The same norms, with other names of spaces in the braces of names."""

        def new(given: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(spelled(name, names) for name in given)

        return replace(
            self,
            query=new(self.query),
            query_rows=new(self.query_rows),
            key=new(self.key),
            key_rows=new(self.key_rows),
        )

    def within(self, starts: tuple[str, ...]) -> ScoreNormRule:
        """The same norms in a model whose names begin so."""

        def inside(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(start + name for start in starts for name in names)

        return replace(
            self,
            query=inside(self.query),
            query_rows=inside(self.query_rows),
            key=inside(self.key),
            key_rows=inside(self.key_rows),
        )


@dataclass(frozen=True)
class Variant:
    """What is different where a family's config asks for it.

    Attributes:
        when: a condition on config.json; see `sizes.holds`.
        spaces: by name, what replaces a space's `size`, its `group` or the reason why it is
            `fixed`; or `joins`, the name of the space that it is then one with.
        norms: what replaces norms of the same names.
        normed: the same of norms with what writes there.
        post_norms: the same of LayerNorms behind blocks.
        score_norms: what replaces norms of queries and keys of the same names.
    """

    when: str
    spaces: Mapping[str, Mapping[str, str]]
    norms: Mapping[str, NormRule] = field(default_factory=dict)
    score_norms: Mapping[str, ScoreNormRule] = field(default_factory=dict)
    normed: Mapping[str, NormRule] = field(default_factory=dict)
    post_norms: Mapping[str, NormRule] = field(default_factory=dict)

    def joined(self) -> dict[str, str]:
        """The spaces that it makes one with others, each with the other."""
        return {name: new["joins"] for name, new in self.spaces.items() if "joins" in new}


@dataclass(frozen=True)
class Part:
    """A model inside another: the language model of one that sees, or its vision tower.

    Attributes:
        config: the key of its own config in config.json, which says its model type.
        like: the data file of the model type where its config names none.
        names: what its tensors' names begin with, in place of their trunk's prefix; as spellings of
            a name, the one in memory last.
        flat: whether older files have its config's keys in config.json itself.
        optional: whether a model may lack it, with all that reads it; its config is null then.
        spaces: the names that spaces of it have in the whole, by those in its own data file.
        head: how the names of classes end of which it is one, with its head: its trunk's prefix
            follows `names` then. Empty for a part that is a trunk alone.
    """

    config: str
    like: str
    names: tuple[str, ...]
    flat: bool = False
    optional: bool = False
    spaces: Mapping[str, str] = field(default_factory=dict)
    head: tuple[str, ...] = ()

    def headed(self, tower: Declaration) -> str:
        """The class that it is, with its head; empty for a trunk alone, or if there is none.

        Args:
            tower: its declaration.
        """
        return next((name for name in tower.classes if self.head and name.endswith(self.head)), "")

    def starts(self, tower: Declaration) -> tuple[str, ...]:
        """What may stand before the names that its own data file has.

        Args:
            tower: its declaration.
        """
        trunk = dict.fromkeys(row.prefix for row in tower.tensors if self.head)
        return (*(start + prefix for start in self.names for prefix in trunk), *self.names)

    def of(self, tower: Declaration) -> Declaration:
        """What the whole has of it: rows, and the spaces that they name, under their names there.

        Args:
            tower: its declaration, for its config.
        """
        if not self.spaces and not self.head:
            return tower
        kept = tower.tensors
        if self.head:
            own = tower.classes[self.headed(tower)]
            trunk = (row for row in tower.tensors if not row.begins_with(own.lacks))
            kept = (*trunk, *own.tensors)
        named = {name for row in kept for name in row.spaces()}
        named |= {name for one in named for name in tower.spaces[one].per}
        spaces = {name: rule for name, rule in tower.spaces.items() if name in named}

        def there(norms: Mapping[str, NormRule]) -> dict[str, NormRule]:
            return {key: rule for key, rule in norms.items() if any(map(rule.is_norm, kept))}

        found = replace(
            tower,
            tensors=kept,
            spaces=spaces,
            norms=there(tower.norms),
            normed=there(tower.normed),
            post_norms=there(tower.post_norms),
        )
        return found.renamed(self.spaces)

    def row(self, rule: TensorRule) -> TensorRule:
        """One of its rows, as a row of the whole model."""
        beside, own = rule.templates[: rule.apart], rule.templates[rule.apart :]
        trunk = rule.prefix if self.head else ""
        templates = tuple(start + trunk + name for start in self.names for name in own)
        return replace(rule, templates=(*beside, *templates), prefix="")


@dataclass(frozen=True)
class Declaration:
    """One family.

    Attributes:
        family: for people.
        model_type: as in config.json.
        spaces: by name.
        tensors: of its trunk.
        classes: its model classes, by name.
        variants: laid over the rest where a config asks for them, one after the other.
        parts: models of other families inside it; `composition.composed` puts them in.
        defaults: what transformers takes where the config of a part says nothing.
        fused: by the template of a row, that of the row whose tensors may stand for its own.
        aliases: second spellings of keys of the config, each with the first.
        unprefixed: whether files of a language model lack the trunk's prefix as a rule, so that
            its absence says nothing.
        bare: the spaces that its parts would hand out as models of their own.
        norms: whose gains may move into what reads them, by name.
        normed: norms with all that writes what they normalise, by name; see `architectures.normed`.
        post_norms: LayerNorms that read the sum of a stream and of a block, each with the block, in
            the order of computation; see `architectures.post_norms`.
        bound: beginnings of names of what nothing may be added to unseen, each with the reason;
            see `architectures.shifts` and `architectures.directions`.
        softmax: beginnings of names of routers that only a softmax reads; see
            `architectures.directions`.
        score_norms: norms of queries and keys, by name.
        sized: spaces whose size is seen, and beginnings of names of tensors that write into a space
            elsewhere than into its stream, each with the reason; see `architectures.streams`.
        also: what may stand between the trunk's prefix and a name, where a model of its own is
            saved with the names that it has as a part of another.
        kinds: conditions on the position in an index space, by the names of kinds.
    """

    family: str
    model_type: str
    spaces: Mapping[str, SpaceRule]
    tensors: tuple[TensorRule, ...]
    classes: Mapping[str, ClassRule]
    variants: tuple[Variant, ...] = ()
    parts: tuple[Part, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    unprefixed: bool = False
    bare: tuple[str, ...] = ()
    norms: Mapping[str, NormRule] = field(default_factory=dict)
    normed: Mapping[str, NormRule] = field(default_factory=dict)
    post_norms: Mapping[str, NormRule] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    softmax: tuple[str, ...] = ()
    score_norms: Mapping[str, ScoreNormRule] = field(default_factory=dict)
    sized: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def handed_out(self) -> set[str]:
        """The spaces that some class of the family, or of its parts, hands to its users."""
        return {space for rule in self.classes.values() for space in rule.outputs} | set(self.bare)

    def under(self, config: Mapping[str, Any]) -> Declaration:
        """The declaration that holds for one model's config."""
        found = self
        for variant in self.variants:
            if holds(variant.when, config):
                found = found._laid_over(variant)
        if not self.kinds:
            return found
        rows = (rule.under(self.kinds, config) for rule in found.tensors)
        return replace(
            found,
            tensors=tuple(row for row in rows if not any(kind.is_empty for kind in row.kinds)),
            norms={key: rule.under(self.kinds, config) for key, rule in found.norms.items()},
        )

    def joined(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The spaces that are one with others under a config, each with the other."""
        found = (one.joined() for one in self.variants if holds(one.when, config))
        return {name: other for one in found for name, other in one.items()}

    def leaving(self, names: Collection[str]) -> Declaration:
        """The same, whose variants change nothing of some spaces."""
        variants = tuple(
            replace(one, spaces={k: new for k, new in one.spaces.items() if k not in names})
            for one in self.variants
        )
        return replace(self, variants=variants)

    def renamed(self, names: Mapping[str, str]) -> Declaration:
        """The same with other names of spaces: on axes, in names' braces, and wherever they count.

        For a declaration of one config, whose variants are laid over it.
        """

        def each(rules: Mapping[str, Any]) -> dict[str, Any]:
            return {key: rule.renamed(names) for key, rule in rules.items()}

        return replace(
            self,
            spaces={names.get(key, key): rule.renamed(names) for key, rule in self.spaces.items()},
            tensors=tuple(_respelled(row, names) for row in self.tensors),
            norms=each(self.norms),
            normed=each(self.normed),
            post_norms=each(self.post_norms),
            score_norms=each(self.score_norms),
            fused={spelled(one, names): spelled(two, names) for one, two in self.fused.items()},
            bound={spelled(key, names): why for key, why in self.bound.items()},
            softmax=tuple(spelled(key, names) for key in self.softmax),
            sized={names.get(key, spelled(key, names)): why for key, why in self.sized.items()},
            classes={
                key: replace(rule, outputs=tuple(names.get(one, one) for one in rule.outputs))
                for key, rule in self.classes.items()
            },
        )

    def _laid_over(self, variant: Variant) -> Declaration:
        joined = variant.joined()
        return replace(
            self,
            norms={**self.norms, **variant.norms},
            normed={**self.normed, **variant.normed},
            post_norms={**self.post_norms, **variant.post_norms},
            score_norms={**self.score_norms, **variant.score_norms},
            spaces={
                name: rule.changed(variant.spaces.get(name, {}))
                for name, rule in self.spaces.items()
                if name not in joined
            },
            tensors=tuple(rule.renamed(joined) for rule in self.tensors),
            classes={
                name: replace(
                    rule,
                    tensors=tuple(row.renamed(joined) for row in rule.tensors),
                    outputs=tuple(joined.get(output, output) for output in rule.outputs),
                )
                for name, rule in self.classes.items()
            },
        )


def spelled(text: str, names: Mapping[str, str]) -> str:
    """A name or its beginning, with other names of spaces in its braces."""
    return re.sub(
        r"{[\w ]+}",
        lambda slot: re.sub(r"\w+", lambda one: names.get(one[0], one[0]), slot[0]),
        text,
    )


def _respelled(row: TensorRule, names: Mapping[str, str]) -> TensorRule:
    """A row with other names of spaces, on its axes and in its names."""
    templates = tuple(spelled(name, names) for name in row.templates)
    only = tuple((names.get(index, index), kind) for index, kind in row.only)
    kinds = tuple(kind.renamed(names) for kind in row.kinds)
    return replace(row.renamed(names), templates=templates, only=only, kinds=kinds)


@cache
def _braces(template: str) -> tuple[str, ...]:
    return tuple(re.findall(r"{([\w ]+)}", template))


@cache
def _slots(template: str) -> tuple[Axis, ...]:
    texts = (f"({text})" if " " in text else text for text in _braces(template))
    return tuple(axis for text in texts for axis in parse(text))


@cache
def patterns(templates: tuple[str, ...], prefix: str) -> tuple[re.Pattern[str], ...]:
    """What matches the names of tensors, for each template; a group for each pair of braces."""
    return tuple(
        re.compile(
            f"(?:{re.escape(prefix)})?"
            + re.sub(r"\\{(?:\w|\\ )+\\}", "(0|[1-9][0-9]{0,8})", re.escape(template))
        )
        for template in templates
    )
