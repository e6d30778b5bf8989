"""The data files: one per family, checked as they are read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import Axis, parse, rename

GUIDE = "docs/architectures.md"


@dataclass(frozen=True)
class SpaceRule:
    """A space before a config gives it a size; fields as in `gauge.notation.Space`, and two more.

    Attributes:
        without: a tensor of the trunk; where a model lacks it, this space is another one.
        joins: that other one.
    """

    name: str
    size: str | None
    group: str | None
    fixed: str
    per: tuple[str, ...]
    without: str = ""
    joins: str = ""


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
        lacks: beginnings of names of the trunk that it has no tensors of: one of two towers, say.
    """

    tensors: tuple[TensorRule, ...]
    outputs: tuple[str, ...]
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """One family: its spaces, the tensors of its trunk, and its model classes by name."""

    family: str
    model_type: str
    spaces: Mapping[str, SpaceRule]
    tensors: tuple[TensorRule, ...]
    classes: Mapping[str, ClassRule]

    def joined(self, names: Collection[str]) -> Declaration:
        """This declaration for a model of these tensors: spaces that are one have one name."""
        gone = {
            space.name: space.joins
            for space in self.spaces.values()
            if space.without
            and not any(
                rule.match(name) is not None
                for rule in self.tensors
                if space.without in rule.templates
                for name in names
            )
        }
        if not gone:
            return self

        def renamed(rule: TensorRule) -> TensorRule:
            return replace(rule, axes=tuple(rename(axis, gone) for axis in rule.axes))

        return replace(
            self,
            tensors=tuple(map(renamed, self.tensors)),
            classes={
                name: replace(rule, tensors=tuple(map(renamed, rule.tensors)))
                for name, rule in self.classes.items()
            },
        )


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
    like = table.pop("like")
    base = _table(like) if isinstance(like, str) else _side_by_side(map(_table, like))
    without = tuple(table.pop("without", ()))  # beginnings of the names of rows not taken over
    base["tensors"] = {k: v for k, v in base["tensors"].items() if not k.startswith(without)}
    merged = {**base, **table}
    for name, rule in table.get("classes", {}).items():
        if "like" in rule:  # a class of the base under another name
            table["classes"][name] = {**base["classes"][rule.pop("like")], **rule}
    for part in ("spaces", "tensors"):
        merged[part] = {**base.get(part, {}), **table.get(part, {})}
    # A row that is required here replaces the optional row of the same name.
    for name in table.get("tensors", {}):
        merged["tensors"].pop(f"{name}?", None)
    return merged


def _side_by_side(towers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The spaces and trunks of several data files in one, each trunk's names with its prefix."""
    merged: dict[str, Any] = {"spaces": {}, "tensors": {}, "classes": {}}
    for table in towers:
        trunk = table.get("trunk", "")
        merged["spaces"].update(table["spaces"])
        for key, text in table["tensors"].items():
            merged["tensors"][" / ".join(trunk + name for name in key.split(" / "))] = text
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
        classes[name] = ClassRule(tuple(head), outputs, tuple(rule.get("lacks", ())))
    return Declaration(table["family"], table["model_type"], spaces, tensors, classes)


def _space(name: str, rule: Mapping[str, Any]) -> SpaceRule:
    if ("group" in rule) == ("fixed" in rule):
        raise ValueError(f"space {name!r} needs either a group or the reason why it is fixed")
    group = rule.get("group")
    if group is not None and (group not in GROUPS or "size" not in rule):
        raise ValueError(f"space {name!r} needs a size and a group among {sorted(GROUPS)}")
    per = tuple(rule.get("per", ()))
    without, joins = rule.get("without", ""), rule.get("joins", "")
    if bool(without) != bool(joins):
        raise ValueError(f"space {name!r}: without which tensor does it join which space?")
    return SpaceRule(name, rule.get("size"), group, rule.get("fixed", ""), per, without, joins)


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
