"""The data files: one per family, checked as they are read."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Axis, Spaces, number, parse

GUIDE = "docs/architectures.md"


@dataclass(frozen=True)
class SpaceRule:
    """A space before a config gives it a size; fields as in `gauge.notation.Space`.

    Attributes:
        wider: groups that take the place of `group` under some configs: the config keys to look at,
            a pattern of their values (those that are given, with spaces between), and the group.
    """

    name: str
    size: str | None
    group: str | None
    fixed: str
    per: tuple[str, ...]
    wider: tuple[tuple[tuple[str, ...], str, str], ...] = ()
    when: tuple[Restriction, ...] = ()

    def group_under(self, config: Mapping[str, Any]) -> str | None:
        """The name of the group that is exact for a model with this config."""
        for one in self.when:
            if one.holds(config):
                return one.group
        for keys, pattern, group in self.wider:
            given = " ".join(str(config[key]) for key in keys if config.get(key) is not None)
            if re.fullmatch(pattern, given):
                return group
        return self.group


@dataclass(frozen=True)
class Restriction:
    """Another group for a space where a config key has a certain value.

    Attributes:
        key: of config.json.
        value: what it must be; None for anything but null, false and absence.
        group: the space's group then.
    """

    key: str
    value: Any
    group: str

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether a model's config asks for it."""
        found = config.get(self.key)
        return found not in (None, False) if self.value is None else found == self.value


@dataclass(frozen=True)
class TensorRule:
    """The axes of every tensor whose name fits a template.

    Attributes:
        templates: the spellings of its name, with index spaces in braces: "h.{layer}.ln_1.bias".
            Several spaces in one pair of braces number tensors as the axis that is their product
            would: "experts.{cluster member}.w1".
        axes: one per dimension.
        optional: whether a model may lack it.
        prefix: what may stand before the name.
    """

    templates: tuple[str, ...]
    axes: tuple[Axis, ...]
    optional: bool
    prefix: str

    def match(self, name: str) -> dict[str, int] | None:
        """The number in each pair of braces, or None if a name is not one of these tensors'."""
        for template, pattern in zip(
            self.templates, _patterns(self.templates, self.prefix), strict=True
        ):
            if found := pattern.fullmatch(name):
                return dict(zip(_braces(template), map(int, found.groups()), strict=True))
        return None

    def spelling(self, name: str) -> str:
        """The template that a name fits, after what stands before it."""
        patterns = _patterns(self.templates, self.prefix)
        found = zip(self.templates, patterns, strict=True)
        template = next(template for template, pattern in found if pattern.fullmatch(name))
        return (self.prefix if name.startswith(self.prefix) else "") + template

    def name(self, index: Mapping[str, int], spaces: Spaces) -> str:
        """The first spelling of one tensor's name, without the prefix."""
        name = self.templates[0]
        for text, slot in zip(_braces(name), self.slots(), strict=True):
            name = name.replace(f"{{{text}}}", str(number(slot, index, spaces)))
        return name

    def slots(self) -> tuple[Axis, ...]:
        """The index spaces in each pair of braces, as an axis."""
        return tuple(_slot(text) for text in _braces(self.templates[0]))

    def indices(self) -> tuple[str, ...]:
        """The index spaces in the name."""
        return tuple(name for slot in self.slots() for name in slot.names())


@dataclass(frozen=True)
class ClassRule:
    """What one model class adds to its family's trunk.

    Attributes:
        tensors: its head, and parts of the family that not every class has, such as a decoder.
        outputs: the spaces that it hands to its users, and that must therefore stay.
    """

    tensors: tuple[TensorRule, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Declaration:
    """One family: its spaces, the tensors of its trunk, and its model classes by name."""

    family: str
    model_type: str
    spaces: Mapping[str, SpaceRule]
    tensors: tuple[TensorRule, ...]
    classes: Mapping[str, ClassRule]


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
    for part in ("spaces", "tensors"):
        merged[part] = {**base.get(part, {}), **table.get(part, {})}
    # A row that is required here replaces the optional row of the same name.
    for name in table.get("tensors", {}):
        merged["tensors"].pop(f"{name}?", None)
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
        if unknown := [one.group for one in rule.when if one.group not in GROUPS]:
            raise ValueError(f"space {rule.name!r} may become {unknown}, which are no groups")
    trunk = table.get("trunk", "")
    tensors = tuple(_tensor(name, text, trunk, spaces) for name, text in table["tensors"].items())
    parts = {
        part: [_tensor(name, text, trunk, spaces) for name, text in rows.items()]
        for part, rows in table.get("parts", {}).items()
    }
    classes = {}
    for name, rule in table["classes"].items():
        outputs = tuple(rule.get("outputs", ()))
        if unknown := [output for output in outputs if output not in spaces]:
            raise ValueError(f"class {name} hands out {unknown}, which nobody declares")
        if unknown := [part for part in rule.get("parts", ()) if part not in parts]:
            raise ValueError(f"class {name} has the parts {unknown}, which nobody declares")
        rows = [row for part in rule.get("parts", ()) for row in parts[part]]
        rows += (_tensor(key, text, "", spaces) for key, text in rule.get("tensors", {}).items())
        classes[name] = ClassRule(tuple(rows), outputs)
    return Declaration(table["family"], table["model_type"], spaces, tensors, classes)


def _space(name: str, rule: Mapping[str, Any]) -> SpaceRule:
    if ("group" in rule) == ("fixed" in rule):
        raise ValueError(f"space {name!r} needs either a group or the reason why it is fixed")
    group = rule.get("group")
    if group is not None and (group not in GROUPS or "size" not in rule):
        raise ValueError(f"space {name!r} needs a size and a group among {sorted(GROUPS)}")
    wider = tuple(
        (tuple(keys.split()), pattern, other)
        for keys, cases in rule.get("wider", {}).items()
        for pattern, other in cases.items()
    )
    if wider and (group is None or any(other not in GROUPS for _, _, other in wider)):
        raise ValueError(f"space {name!r} needs a group, and wider ones among {sorted(GROUPS)}")
    when = tuple(_restriction(text, other) for text, other in rule.get("when", {}).items())
    per = tuple(rule.get("per", ()))
    return SpaceRule(name, rule.get("size"), group, rule.get("fixed", ""), per, wider, when)


def _restriction(condition: str, group: str) -> Restriction:
    """Reads `key`, which holds where it is set, or `key = value` with a value in JSON."""
    key, equals, value = condition.partition("=")
    return Restriction(key.strip(), json.loads(value) if equals else None, group)


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


def _braces(template: str) -> list[str]:
    return re.findall(r"{([\w ]+)}", template)


@cache
def _slot(text: str) -> Axis:
    (axis,) = parse(f"({text})" if " " in text else text)
    return axis


@cache
def _patterns(templates: tuple[str, ...], prefix: str) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(
            f"(?:{re.escape(prefix)})?"
            + re.sub(r"\\{(?:\w|\\ )+\\}", "(0|[1-9][0-9]*)", re.escape(template))
        )
        for template in templates
    )
