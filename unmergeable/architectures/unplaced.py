"""Why a tensor fits no row of its family: the cause as far as names and the config show it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from unmergeable.architectures.declaration import GUIDE
from unmergeable.architectures.placing import ModelSpaces, Placement, fitting
from unmergeable.architectures.rules import Declaration, TensorRule
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError, quoted

# What wrappers of models put into the names of a state dict, at the beginning or between.
_WRAPPERS = re.compile(
    r"module|_orig_mod|_\w*wrapped_module|_forward_module|_fpw_module|original_module"
    r"|modules_to_save|base_layer|orig_mod"
)
_ADAPTER = re.compile(r"\.(lora_\w+|modules_to_save|base_layer|hada_w\w+|lokr_w\w+|oft_\w+)\.")
_AHEAD = re.compile(r"(^|\.)(mtp|nextn|multi_token)\w*\.")
_AHEAD_KEYS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
_INSIDE = {
    "_orig_mod.": "model._orig_mod",
    "module.": "model.module",
    "base_model.model.": "what model.merge_and_unload() returns",
}
LONGEST = 500  # of names that are taken apart
MANY = 2000  # names are looked at


@dataclass(frozen=True)
class Unplaced:
    """What is known of the model that has such a tensor.

    Attributes:
        rules: the rows of this model.
        declaration: whose rows these are.
        model_class: empty if the config names none.
        spaces: of this model.
        config: its config.json.
        shapes: each stored tensor's name and dimensions.
    """

    rules: Sequence[TensorRule]
    declaration: Declaration
    model_class: str
    spaces: ModelSpaces
    config: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]

    def why(self, name: str) -> UnmergeableError:
        """The error that says what is the matter with a tensor, and what to do.

        Args:
            name: as stored; no row fits it.
        """
        said = quoted(name)
        if not self.model_class and (owners := self._owners(name)):
            return InputError(
                f"config.json names no model class, so nobody knows how {said} is used. Add "
                f'"architectures": ["{owners[0]}"] to it, or another of {", ".join(owners)}.'
            )
        if len(name) <= LONGEST:
            for cause in (self._adapted, self._wrapped, self._ahead):
                if found := cause(name):
                    return InputError(found)
        if owners := self._owners(name):
            return UnsupportedError(
                f"{self.model_class}, which config.json names, has no tensor {said}; it is one of "
                f'{", ".join(owners[:3])}. Is "architectures" that of these weights?'
            )
        model_type = self.declaration.model_type
        return UnsupportedError(
            f"nobody has declared the tensor {said} for {model_type!r}. Left alone it would break "
            f"the model, so nothing was done. If you know its axes, add a line "
            f"{_line(name, self.rules)} to {model_type}.toml"
            f"{fitting(self.shapes.get(name, ()), self.spaces)}: see {GUIDE}."
        )

    def _owners(self, name: str) -> list[str]:
        """The classes that have a tensor of that name."""
        trunk = [rule for rule in self.declaration.tensors if rule.match(name) is not None]
        return [
            cls
            for cls, rule in self.declaration.classes.items()
            if any(row.match(name) is not None for row in rule.tensors)
            or any(not row.begins_with(rule.lacks) for row in trunk)
        ]

    def _adapted(self, name: str) -> str:
        """Says that the weights of an adapter stand among those of the model."""
        found = next((n for n in [name, *self.shapes][:MANY] if _ADAPTER.search(n)), None)
        if found is None or not _ADAPTER.search(found[:LONGEST]):
            return ""
        return (
            f"{quoted(found)} is of a PEFT adapter that wraps the model, not merged into it. Save "
            "the unwrapped model: model.merge_and_unload().save_pretrained(...)."
        )

    def _wrapped(self, name: str) -> str:
        """Says which prefix of a wrapper stands in the names, if they fit without it."""
        for taken, strip in _strippings(name):
            if self._placed(strip(name)) is None:
                continue
            known, others = set(), []
            for other in list(self.shapes)[:MANY]:
                place = self._placed(other)
                if place is not None:
                    known.add(place.place)
                elif len(other) <= LONGEST:
                    others.append(other)
            places = [self._placed(strip(other)) for other in others]
            fit = {place.place for place in places if place is not None}
            # Where both stand side by side, what looks like a prefix is a part of the model.
            if fit & known or 2 * sum(place is not None for place in places) < len(others):
                continue
            inside = _INSIDE.get(taken, "the model inside the wrapper")
            return (
                f"{quoted(name)} is {quoted(strip(name))} behind the prefix {quoted(taken)}: the "
                "names are those of a wrapper (torch.compile, DistributedDataParallel, FSDP, "
                f"PEFT, Lightning or the like). Save the unwrapped model, {inside}, with "
                "save_pretrained."
            )
        return ""

    def _ahead(self, name: str) -> str:
        """Says that a layer is one more than the model has."""
        key = next((key for key in _AHEAD_KEYS if self.config.get(key)), "")
        found = _AHEAD.search(name)
        if found:
            which, start = f"is named {found[0]!r}", name[: found.end()]
        else:
            layer = self._beyond(name)
            if layer is None:
                return ""
            start, number, count = layer
            which = f"is of layer {number}, and config.json counts {count} layers, from 0"
        if found or key:
            said = f", {key} {quoted(self.config[key])}" if key else ""
            return (
                f"{quoted(name)} {which}: it predicts further tokens (multi-token "
                f"prediction{said}), transformers passes such layers over, and no declaration "
                "covers them. Load the model with transformers and save it again, which leaves "
                "them out."
            )
        return (
            f"{quoted(name)} {which}. Is that number right? If {start!r} and what follows predict "
            "further tokens, load the model with transformers and save it again, which leaves them "
            "out."
        )

    def _beyond(self, name: str) -> tuple[str, int, int] | None:
        """How a name begins that numbers a layer too many, that number and how many there are."""
        for rule in self.rules:
            for template in rule.templates:
                start, brace, rest = template.partition("{")
                slot = rest.partition("}")[0]
                if not brace or " " in slot or self.declaration.spaces[slot].group:
                    continue
                pattern = f"(?:{re.escape(rule.prefix)})?{re.escape(start)}([0-9]{{1,9}})[.]"
                if found := re.match(pattern, name):
                    count = self.spaces.limit(slot)
                    if count is not None and int(found[1]) >= count:
                        return found[0], int(found[1]), count
        return None

    def _placed(self, name: str) -> Placement | None:
        """The row of this model, or of any class where the config names none, that a name fits."""
        rows: Iterable[TensorRule] = self.rules
        if not self.model_class:
            heads = self.declaration.classes.values()
            rows = [*self.rules, *(row for rule in heads for row in rule.tensors)]
        for rule in rows:
            if (index := rule.match(name)) is not None:
                return Placement(rule, index)
        return None


def _strippings(name: str) -> Iterable[tuple[str, Callable[[str], str]]]:
    """What may stand before or inside a name, and what takes it out of all names."""
    taken = [part for part in name.split(".") if _WRAPPERS.fullmatch(part)]
    inner = _unwrapped(name)
    if taken:
        yield "".join(f"{part}." for part in dict.fromkeys(taken)), _unwrapped
    for place, letter in enumerate(inner):
        if letter == ".":
            start = inner[: place + 1]
            before = name[: len(name) - len(inner)] if name.endswith(inner) else ""
            yield before + start, partial(_unwrapped, start=start)


def _unwrapped(name: str, start: str = "") -> str:
    """A name without the parts that wrappers put into it, and without a prefix."""
    inner = ".".join(part for part in name.split(".") if not _WRAPPERS.fullmatch(part))
    return inner.removeprefix(start)


def _line(name: str, rules: Sequence[TensorRule]) -> str:
    """The line of a data file that would declare a tensor, without its axes."""
    prefix = next((rule.prefix for rule in rules if rule.prefix), "")
    template = re.sub(r"\.\d+\.", ".{layer}.", name[:LONGEST].removeprefix(prefix), count=1)
    template = re.sub(r"experts[.][0-9]+[.]", "experts.{expert}.", template)
    return f'"{template}" = "..."' if template.isprintable() and len(template) < 120 else "for it"
