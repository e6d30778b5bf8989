"""What PEFT reads in an adapter's config: only what is known passes, and numbers are checked.

A field that this release does not know may change what an adapter computes. So every field is
either known, or empty, or refused by its name.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.companions import ADAPTER
from unmergeable.checkpoint.small_files import is_there, read_json
from unmergeable.errors import InputError, UnsupportedError, clip, quoted

CONFIG = ADAPTER
MAX_RANK = 1 << 20
# Fields of PEFT's LoraConfig that are read here, or that do not change what an adapter computes.
_KNOWN = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "lora_bias", "bias", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "modules_to_save", "trainable_token_indices",
    "fan_in_fan_out", "init_lora_weights", "ensure_weight_tying", "megatron_core",
    "qalora_group_size", "runtime_config", "eva_config",
})  # fmt: skip
# Settings of ways to begin that are refused by `init_lora_weights`, and without it say nothing.
_OF_BEGINNINGS = frozenset({"loftq_config", "corda_config", "lora_ga_config"})
_REFUSED = {
    "alora_invocation_tokens": "it works on some positions of a text only",
    "arrow_config": "it routes by what its factors are in the open model's coordinates",
    "kasa_config": "PEFT changes the model's weights when it loads it",
    "layer_replication": "it makes layers that the locked model has not",
    "megatron_config": "it is for layers that are split among machines",
    "monteclora_config": "it draws its factors at random",
    "target_parameters": "it adapts parameters that are no layers, such as stacks of experts",
    "use_bdlora": "its blocks do not follow another order of rows and columns",
    "use_qalora": "it pools neighbouring inputs, which the lock moves apart",
    "velora_config": "it groups neighbouring inputs, which the lock moves apart",
}
_MERGE = "Merge the adapter into the open model and lock the result."
# Ways to begin after which PEFT loads an adapter without a change of the model's weights.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def read_config(folder: Path) -> Mapping[str, Any]:
    """Reads an adapter's config.

    Args:
        folder: as PEFT saves it.

    Raises:
        InputError: none that can be read; a value that PEFT could not use.
        UnsupportedError: an adapter of another kind, or with a field whose effect cannot follow.
    """
    path = folder / CONFIG
    if not is_there(path):
        raise InputError(f"{folder} has no {CONFIG}: it is not an adapter's folder.")
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            f"{folder} holds an adapter of type {quoted(kind)}: only LORA changes weights by a "
            "product that a change of coordinates can follow."
        )
    _check_fields(config)
    _check_values(config)
    return config


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A by: lora_alpha / r, or / √r for rank-stabilised adapters.

    Raises:
        InputError: no such number in the config.
    """
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(f"{CONFIG}: lora_alpha is {quoted(alpha)}, not a number.")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank that PEFT makes a module's factors with."""
    return int(_by_pattern(config, "rank_pattern", module, config.get("r", 8)))


def _by_pattern(config: Mapping[str, Any], field: str, module: str, default: Any) -> Any:
    """As PEFT's get_pattern_key: keys are regular expressions, and the first that fits counts."""
    patterns = config.get(field) or {}
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return patterns[pattern]
    return patterns.get(module, default)


def _check_fields(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if name in _KNOWN or not value:
            continue
        if name in _REFUSED:
            raise UnsupportedError(f"{CONFIG}: {name}={quoted(value)}: {_REFUSED[name]}. {_MERGE}")
        if name not in _OF_BEGINNINGS:
            raise UnsupportedError(
                f"{CONFIG}: {quoted(name)} is {quoted(value)}, and this release does not know what "
                f"that does. {_MERGE}"
            )
    beginning = config.get("init_lora_weights", True)
    known = isinstance(beginning, str | bool | None) and beginning in _BEGINNINGS
    if not known:
        raise UnsupportedError(
            f"{CONFIG}: init_lora_weights={quoted(beginning)}: such an adapter stands on a model "
            "whose weights were changed for it. Save it as plain LoRA (PEFT: save_pretrained with "
            "path_initial_model_for_weight_conversion), or merge it into the open model and lock "
            "the result."
        )


def _check_values(config: Mapping[str, Any]) -> None:
    """Sees that what is computed with is a number, and that patterns can be matched quickly."""
    for name in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(config.get(name), bool | None):
            raise InputError(f"{CONFIG}: {name} is {quoted(config[name])}, not true or false.")
    if not isinstance(config.get("task_type"), str | None):
        raise InputError(f"{CONFIG}: task_type is {quoted(config['task_type'])}, not a text.")
    fields = (("r", "rank_pattern", _is_rank), ("lora_alpha", "alpha_pattern", _is_number))
    for field, patterns, check in fields:
        if not check(config.get(field, 8)):
            raise InputError(
                f"{CONFIG}: {field} is {quoted(config[field])}, which PEFT cannot use."
            )
        table = config.get(patterns) or {}
        if not isinstance(table, dict):
            raise InputError(f"{CONFIG}: {patterns} is {quoted(table)}, not an object.")
        for pattern, value in table.items():
            if not check(value):
                raise InputError(f"{CONFIG}: {patterns} has {quoted(value)}, which is no {field}.")
            if reason := _fault(pattern):
                raise InputError(f"{CONFIG}: {patterns} has the key {quoted(pattern)}: {reason}.")


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_RANK


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _fault(pattern: str) -> str:
    """Why a regular expression is not taken; empty if it is.

    Those that repeat what itself repeats or chooses may take for ever to fail.
    """
    if len(pattern) > 1000:
        return "it is too long"
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        return f"it is no regular expression: {clip(error)}"
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]", "x", pattern, flags=re.DOTALL)
    groups, closed, repeats = [False], False, 0
    for place, mark in enumerate(bare):
        if mark == "(":
            groups.append(False)
        elif mark == ")":
            closed = groups.pop() if len(groups) > 1 else False
            groups[-1] |= closed
            continue
        elif mark == "|":
            groups[-1] = True
        elif mark in "*+?{" and not bare.startswith("(", max(0, place - 1)):
            if closed and mark != "?":
                return "it repeats what itself repeats or chooses"
            groups[-1], repeats = True, repeats + (mark != "?")
        closed = False
    return "it has more than four repeats" if repeats > 4 else ""
