"""Quantised folders: which can be moved, where their scales live, and why the others cannot.

Moved are weights in float8 with scales beside them: one for each block, for each row, or for all.
Signs and orders pass float8 without rounding, and `gauge.blocked` keeps blocks together. All
other methods are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unmergeable.architectures.placing import Placement
from unmergeable.architectures.rules import SpaceRule, TensorRule
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError, quoted
from unmergeable.gauge.blocked import Run, blocked
from unmergeable.gauge.notation import Atom, Axis, Blocks, Space

ADVICE = "Dequantise the model first; a protected model can be quantised again."
# The axis of what has one scale, whatever it scales.
ONE = SpaceRule("scale_of_all", "1", None, "one scale for a whole axis", ())
_SCALES = ("_scale_inv", "_scale")  # beside "weight"
_SCALARS = ("activation_scale", "input_scale", "output_scale")  # in place of "weight"

# What the names of tensors say of a method, and why it cannot be moved.
_PACKED = "it packs several weights into one integer"
_SIGNS = (
    (r"\.qweight", "GPTQ or AWQ", f"{_PACKED}, and groups of inputs share scales"),
    (r"\.weight\.(absmax|quant_map|nested_\w+|quant_state\.\w+)", "bitsandbytes 4-bit",
     f"{_PACKED}, and 64 weights in a row share a scale wherever rows end"),
    (r"\.(SCB|weight_format)", "bitsandbytes 8-bit",
     "it stores 8-bit integers, which a lossless lock knows no arithmetic for"),
    (r"_proj_(blocks|scales)", "mxfp4", f"{_PACKED}, and 32 weights in a row share a scale"),
    (r"\.weight_(packed|zero_point|global_scale)", "compressed-tensors, packed",
     f"{_PACKED}, and groups of inputs share scales"),
    (r"\.weight_scale(_inv|_2)?", "float8 or the like", "scales stand beside its weights"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Quantised:
    """How a folder's weights are quantised.

    Attributes:
        method: as config.json names it.
        block: rows and columns of weights that share a scale; None for a scale per row, or one.
        inputs: how many inputs are quantised together at run time; 1 where all or none are.
    """

    method: str
    block: tuple[int, int] | None
    inputs: int = 1
    _rules: dict[tuple[int, str, tuple[Axis, ...]], TensorRule] = field(default_factory=dict)

    def weight_of(self, name: str) -> tuple[str, str] | None:
        """The weight whose scale a tensor is, and the name's end; None if it goes by another name.

        Returns:
            "a.b.weight" and "weight_scale_inv" for "a.b.weight_scale_inv".
        """
        start, _, last = name.rpartition(".")
        if last in _SCALARS or last.removeprefix("weight") in _SCALES:
            return f"{start}.weight", last
        return None

    def placed(self, last: str, shape: Sequence[int], weight: Placement) -> Placement:
        """Where a scale lives: beside its weight.

        Args:
            last: the end of its name.
            shape: its dimensions.
            weight: where the weight is.
        """
        axes = self._axes(last, shape, weight.rule.axes)
        key = id(weight.rule), last, axes
        if key not in self._rules:
            names = (t.removesuffix("weight") + last for t in weight.rule.templates)
            self._rules[key] = replace(
                weight.rule, templates=tuple(names), axes=axes, optional=True
            )
        return Placement(self._rules[key], weight.index)

    def _axes(self, last: str, shape: Sequence[int], axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        one = Atom(ONE.name)
        if last in _SCALARS or len(axes) != 2 or math.prod(shape) == 1:
            return (one,) * len(shape)
        if self.block and len(shape) == 2:
            return Blocks(axes[0], self.block[0]), Blocks(axes[1], self.block[1])
        return (Blocks(axes[0], 1), *(one,) * (len(shape) - 1))

    def spaces(
        self,
        spaces: Mapping[str, Space],
        placements: Mapping[str, Placement],
        shapes: Mapping[str, Sequence[int]],
    ) -> dict[str, Space]:
        """The spaces, each with what blocks leave of its group."""
        runs: dict[tuple[Axis, int, int], Run] = {}
        for name in placements:
            found = self.weight_of(name)
            if not found or found[0] not in placements or found[1] in _SCALARS:
                continue
            rows, columns = self.block or (1, 1)
            axes, sizes = placements[found[0]].rule.axes, shapes[found[0]]
            if len(axes) != 2:
                continue
            for axis, size, block in zip(axes, sizes, (rows, columns), strict=True):
                runs[axis, size, block] = Run(axis, size, block)
            runs[axes[1], sizes[1], self.inputs] = Run(axes[1], sizes[1], self.inputs)
        changed = {}
        for name, space in spaces.items():
            group = blocked(space, spaces, runs.values())
            changed[name] = replace(space, group=group) if group else space
        return changed


_KEYS = ("quantization_config", "compression_config")


def _stated(config: Mapping[str, Any]) -> Any:
    """What a config says of how its weights are quantised; nothing true if it does not."""
    nested = config.get("text_config")
    configs = (config, nested) if isinstance(nested, Mapping) else (config,)
    return next((found for one in configs for key in _KEYS if (found := one.get(key))), None)


def check_left_over(
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    placed: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Refuses a config that speaks of quantised weights where the weights are plain.

    Args:
        config: the model's config.json.
        shapes: each stored tensor's name and dimensions.
        placed: raises an error where the weights are not those of a config.

    Raises:
        InputError: it does; with the key to remove.
    """
    found = _stated(config)
    if not isinstance(found, Mapping):
        return
    signs = re.compile(f"({'|'.join(pattern for pattern, *_ in _SIGNS)}|_scales?)$")
    if any(signs.search(name) for name in shapes):
        return
    plain = {key: value for key, value in config.items() if key not in _KEYS}
    nested = plain.get("text_config")
    if isinstance(nested, Mapping):
        plain["text_config"] = {key: nested[key] for key in nested if key not in _KEYS}
    try:
        placed(plain)
    except UnmergeableError:
        return  # whatever they are, they are not plain
    raise InputError(
        f"config.json has a quantization_config ({_method(found)}), but the weights are plain: "
        "their names and shapes are those of the model before, and none has scales. It is left "
        "over from a merge, it seems: remove that key from config.json. If scales are missing, "
        "download the model again."
    )


def _method(found: Mapping[str, Any]) -> str:
    """The name of a method, for people."""
    name = found.get("quant_method", "a method that it does not name")
    return name if isinstance(name, str) and name.isprintable() and len(name) < 60 else quoted(name)


def quantised(config: Mapping[str, Any], names: Iterable[str]) -> Quantised | None:
    """How a folder is quantised; None if it is not.

    Args:
        config: its config.json.
        names: of its tensors.

    Raises:
        UnsupportedError: a method that cannot be moved; named, with a tensor and what to do.
        InputError: quantised tensors, and a config.json that says nothing of them.
    """
    found = _stated(config)
    names = list(names)
    if not found:
        for pattern, method, _ in _SIGNS:
            for name in names:
                if re.search(f"{pattern}$", name):
                    raise InputError(
                        f"{quoted(name)} is of a quantised model ({method}), but config.json has "
                        "no quantization_config, so that nobody knows how its weights are read. Is "
                        f"this the config of these weights? {ADVICE}"
                    )
        return None
    if not isinstance(found, Mapping):
        raise InputError(f"config.json: quantization_config is {quoted(found)}, not a table.")
    method = _method(found)
    if method == "fp8":
        return Quantised(method, _block(found.get("weight_block_size")))
    if method == "compressed-tensors" and (settings := _float8(found)):
        return Quantised(method, *settings)
    raise UnsupportedError(_refusal(method, found, names))


def halves(method: str, what: str) -> str:
    """Says that weights are no numbers without their scales, where more than a lock is asked for.

    Args:
        method: of quantising.
        what: was asked for, as in "merged".
    """
    return f"the weights are quantised ({method}): they can be locked, but not {what}. {ADVICE}"


def _refusal(method: str, found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Says which tensor is quantised how, and what to do."""
    bits = next((f", {key}" for key in ("load_in_4bit", "load_in_8bit") if found.get(key)), "")
    for pattern, _, why in _SIGNS:
        for name in names:
            if re.search(f"{pattern}$", name):
                return (
                    f"the weights are quantised by {method}{bits} ({quoted(name)}), which cannot "
                    f"be moved: {why}. {ADVICE}"
                )
    return (
        f"the weights are quantised by {method}{bits}, which cannot be moved: nobody has declared "
        f"how its scales lie. {ADVICE} If they are plain, the quantization_config is left over: "
        "remove it from config.json."
    )


def _block(block: Any) -> tuple[int, int] | None:
    """Rows and columns of a block.

    Raises:
        InputError: not two positive numbers.
    """
    if block is None:
        return None
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(n) is int and n > 0 for n in block)
    ):
        raise InputError(f"config.json gives the blocks of its quantisation as {quoted(block)}.")
    return block[0], block[1]


def _float8(found: Mapping[str, Any]) -> tuple[tuple[int, int] | None, int] | None:
    """The blocks, and the inputs quantised together, of compressed-tensors in plain float8.

    Returns:
        None where anything besides is at work: integers, packing, zero points, sparsity, rotations.
    """
    groups = found.get("config_groups")
    formats = ("float-quantized", "naive-quantized")
    besides = ("kv_cache_scheme", "transform_config")
    sparse = found.get("sparsity_config") or {}
    if (
        found.get("format") not in formats
        or not isinstance(groups, Mapping)
        or not groups
        or any(found.get(key) for key in besides)
        or not isinstance(sparse, Mapping)
        or sparse.get("format", "dense") != "dense"
    ):
        return None
    blocks, inputs = set(), {1}
    for group in groups.values():
        if not isinstance(group, Mapping):
            return None
        weights, runtime = group.get("weights") or {}, group.get("input_activations") or {}
        if not isinstance(weights, Mapping) or not isinstance(runtime, Mapping):
            return None
        plain = all(
            one.get("num_bits", 8) == 8
            and one.get("type", "float") == "float"
            and one.get("symmetric", True)
            and not one.get("actorder")
            for one in (weights, runtime)
        )
        if not weights or not plain or group.get("output_activations"):
            return None
        if weights.get("strategy") not in ("tensor", "channel", "block"):
            return None
        blocked = weights["strategy"] == "block"
        blocks.add(_block(weights.get("block_structure")) if blocked else None)
        if runtime.get("strategy") == "group":
            size = runtime.get("group_size")
            if type(size) is not int or size < 1:
                return None
            inputs.add(size)
        elif runtime.get("strategy", "token") not in ("token", "tensor"):
            return None
    if len(blocks) > 1 or len(inputs) > 2:
        return None
    return blocks.pop(), max(inputs)
