"""The data files: one per family, checked as they are read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from unmergeable.architectures.sizes import holds
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Axis, parse

GUIDE = "docs/architectures.md"


@dataclass(frozen=True)
class SpaceRule:
    """A space before a config gives it a size; fields as in `gauge.notation.Space`."""

    name: str
    size: str | None
    group: str | None
    fixed: str
    per: tuple[str, ...]

    def changed(self, changes: Mapping[str, str]) -> SpaceRule:
        """The same space with another size, and with another group or a reason why it is fixed."""
        size = changes.get("size", self.size)
        if not {"group", "fixed"} & changes.keys():
            return replace(self, size=size)
        return replace(self, size=size, group=changes.get("group"), fixed=changes.get("fixed", ""))


@dataclass(frozen=True)
class TensorRule:
    """The axes of every tensor whose name fits a template.

    Attributes:
        templates: the spellings of its name, with index spaces in braces: "h.{layer}.ln_1.bias".
        axes: one per dimension.
        optional: whether a model may lack it.
        prefix: what may stand before the name.
    """

    templates: tuple[str, ...]
    axes: tuple[Axis, ...]
    optional: bool
    prefix: str

    def match(self, name: str) -> dict[str, int] | None:
        """The indices in a tensor's name, or None if it is not one of these tensors."""
        for pattern in _patterns(self.templates, self.prefix):
            if found := pattern.fullmatch(name):
                return {index: int(number) for index, number in found.groupdict().items()}
        return None

    def indices(self) -> tuple[str, ...]:
        """The index spaces in the name."""
        return tuple(re.findall(r"{(\w+)}", self.templates[0]))


@dataclass(frozen=True)
class ClassRule:
    """What one model class adds to its family's trunk.

    Attributes:
        tensors: its head.
        outputs: the spaces that it hands to its users, and that must therefore stay.
    """

    tensors: tuple[TensorRule, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """What is different where a family's config switches something on.

    Attributes:
        when: a condition on config.json; see `sizes.holds`.
        spaces: what replaces the size, the group or the reason of the family's spaces.
        tensors: rows instead of the family's of the same names, trunk or head.
    """

    when: str
    spaces: Mapping[str, Mapping[str, str]]
    tensors: tuple[TensorRule, ...]


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
    """

    family: str
    model_type: str
    spaces: Mapping[str, SpaceRule]
    tensors: tuple[TensorRule, ...]
    classes: Mapping[str, ClassRule]
    variants: tuple[Variant, ...] = ()

    def under(self, config: Mapping[str, Any]) -> Declaration:
        """The declaration that holds for one model's config."""
        found = self
        for variant in self.variants:
            if holds(variant.when, config):
                classes = {
                    name: replace(rule, tensors=_laid_over(rule.tensors, variant.tensors))
                    for name, rule in found.classes.items()
                }
                spaces = {
                    name: rule.changed(variant.spaces.get(name, {}))
                    for name, rule in found.spaces.items()
                }
                found = replace(
                    found,
                    spaces=spaces,
                    tensors=_laid_over(found.tensors, variant.tensors),
                    classes=classes,
                )
        return found


def _laid_over(
    rules: tuple[TensorRule, ...], others: tuple[TensorRule, ...]
) -> tuple[TensorRule, ...]:
    """Rows, with the axes of those others that have the same name."""
    axes = {rule.templates: rule.axes for rule in others}
    return tuple(replace(rule, axes=axes.get(rule.templates, rule.axes)) for rule in rules)


def supported() -> dict[str, Declaration]:
    """All declarations, by `model_type`."""
    folder = resources.files("unmergeable.architectures")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".toml"))
    found = (load(name.removesuffix(".toml")) for name in names)
    return {declaration.model_type: declaration for declaration in found}


def declaration_for(model_type: Any) -> Declaration:
    """The declaration of a model type.

    Raises:
        UnsupportedError: nobody has declared it.
    """
    known = supported()
    if not isinstance(model_type, str) or model_type not in known:
        raise UnsupportedError(
            f"model_type {model_type!r} is not supported. Supported: {', '.join(known)}. To add "
            f"an architecture, write one data file: see {GUIDE}."
        )
    return known[model_type]


@cache
def load(stem: str) -> Declaration:
    """Reads `<stem>.toml` from the package."""
    return read(_table(stem))


def _table(stem: str) -> dict[str, Any]:
    """A data file's content, laid over that of the file it is `like`."""
    text = (resources.files("unmergeable.architectures") / f"{stem}.toml").read_text("utf-8")
    table = tomllib.loads(text)
    if "like" not in table:
        return table
    base = _table(table.pop("like"))
    without = tuple(table.pop("without", ()))  # beginnings of the names of rows not taken over
    base["tensors"] = {k: v for k, v in base["tensors"].items() if not k.startswith(without)}
    merged = {**base, **table}
    merged["variants"] = [*base.get("variants", ()), *table.get("variants", ())]
    for part in ("spaces", "tensors"):
        merged[part] = {**base.get(part, {}), **table.get(part, {})}
    # A row that is required here replaces the optional row of the same name, and the reverse.
    for name in table.get("tensors", {}):
        merged["tensors"].pop(name.removesuffix("?") if name.endswith("?") else f"{name}?", None)
    return merged


def read(table: Mapping[str, Any]) -> Declaration:
    """Builds a declaration from a data file's content.

    Raises:
        ValueError: a fault in the file, named.
    """
    spaces = {name: _space(name, rule) for name, rule in table["spaces"].items()}
    for rule in spaces.values():
        if unknown := [name for name in rule.per if name not in spaces]:
            raise ValueError(f"space {rule.name!r} is per {unknown}, which nobody declares")
    trunk = table.get("trunk", "")
    tensors = tuple(_tensor(name, text, trunk, spaces) for name, text in table["tensors"].items())
    classes = {}
    for name, rule in table["classes"].items():
        outputs = tuple(rule.get("outputs", ()))
        if unknown := [output for output in outputs if output not in spaces]:
            raise ValueError(f"class {name} hands out {unknown}, which nobody declares")
        head = (_tensor(key, text, "", spaces) for key, text in rule.get("tensors", {}).items())
        classes[name] = ClassRule(tuple(head), outputs)
    rows = (*tensors, *(row for rule in classes.values() for row in rule.tensors))
    variants = tuple(_variant(one, spaces, rows) for one in table.get("variants", ()))
    return Declaration(table["family"], table["model_type"], spaces, tensors, classes, variants)


def _variant(
    one: Mapping[str, Any],
    spaces: Mapping[str, SpaceRule],
    rows: tuple[TensorRule, ...],
) -> Variant:
    changed = one.get("spaces", {})
    for name, changes in changed.items():
        if not changes.keys() <= {"size", "group", "fixed"}:
            raise ValueError(f"a variant changes {sorted(changes)} of space {name!r}")
        _check_space(spaces[name].changed(changes))
    tensors = tuple(_tensor(key, text, "", spaces) for key, text in one.get("tensors", {}).items())
    known = {row.templates for row in rows}
    if unknown := [rule.templates[0] for rule in tensors if rule.templates not in known]:
        raise ValueError(f"a variant has rows {unknown}, which are none of the family's")
    holds(one["when"], {})  # a condition outside the language is a fault in the file
    return Variant(one["when"], changed, tensors)


def _space(name: str, rule: Mapping[str, Any]) -> SpaceRule:
    space = SpaceRule(
        name,
        rule.get("size"),
        rule.get("group"),
        rule.get("fixed", ""),
        tuple(rule.get("per", ())),
    )
    return _check_space(space)


def _check_space(space: SpaceRule) -> SpaceRule:
    if (space.group is None) == (not space.fixed):
        raise ValueError(f"space {space.name!r} needs either a group or the reason why it is fixed")
    if space.group is not None and (space.group not in GROUPS or space.size is None):
        raise ValueError(f"space {space.name!r} needs a size and a group among {sorted(GROUPS)}")
    return space


def _tensor(key: str, text: str, prefix: str, spaces: Mapping[str, SpaceRule]) -> TensorRule:
    names = key.removesuffix("?").split(" / ")
    axes = parse(text) if text else ()
    for axis in axes:
        if unknown := [name for name in axis.names() if name not in spaces]:
            raise ValueError(f"tensor {key!r} names the spaces {unknown}, which nobody declares")
    rule = TensorRule(tuple(names), axes, key.endswith("?"), prefix)
    if unknown := [index for index in rule.indices() if index not in spaces]:
        raise ValueError(f"tensor {key!r} is numbered by {unknown}, which nobody declares")
    return rule


@cache
def _patterns(templates: tuple[str, ...], prefix: str) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(
            f"(?:{re.escape(prefix)})?"
            + re.sub(r"\\{(\w+)\\}", r"(?P<\1>0|[1-9][0-9]*)", re.escape(template))
        )
        for template in templates
    )
