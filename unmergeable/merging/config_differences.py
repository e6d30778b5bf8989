"""What the configs of two models say otherwise, each read as transformers reads it.

Read so, a key that is left out and its default are the same, and so are the old and the new
spelling of one setting. No code of a folder runs: a model type that transformers does not know is
compared as its file has it.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmergeable.errors import quoted
from unmergeable.extras import optional

# By the last part of a key. What no weight is computed with: records, training, how a run is made.
_IGNORED = re.compile(
    r"_.*|auto_map|transformers_version|name_or_path|finetuning_task|task_specific_params"
    r"|unsloth_.*|(torch_)?dtype|use_cache|attn_implementation|chunk_size_feed_forward"
    r"|pretraining_tp|gradient_checkpointing|output_(attentions|hidden_states|router_logits)"
    r"|return_dict|(?!token_dropout).*(dropout|pdrop|layerdrop|drop_rate|drop_prob|drop_path).*"
    r"|initializer_.*|init_std|router_jitter_noise|(router_)?(aux|z)_loss_coef|ctc_.*"
    r"|mask_(time|feature)_.*|apply_spec_augment|label2id"
)
# What is about the use of a model, or matters only together with other keys.
_USE = re.compile(
    r".*token_ids?|max_position_embeddings|max_window_layers|problem_type|quantization_config"
)
_NO_NAME = re.compile(r"LABEL_\d+")  # of a label: what transformers puts where a config has none
_KIND = ("model_type", "architectures")
_DEPTH = 8
# transformers makes lists as long as these numbers, before anyone looks at the weights.
_COUNTS = re.compile(r"(?!.*(size|dim|vocab))(num_|.*(layer|block|depth|label)).*")
_MANY = 1 << 17
_SHOWN = 60

Path = tuple[str, ...]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


@dataclass(frozen=True)
class Leaf:
    """A value of a config, and whether the class of that config declares its key."""

    value: Any
    declared: bool = True


@dataclass(frozen=True)
class Difference:
    """A key on which two configs disagree.

    Attributes:
        key: with dots between the names of nested tables.
        values: what each of them has, as text.
        decides: whether the same weights compute something else with one and with the other.
    """

    key: str
    values: tuple[str, str]
    decides: bool

    def __str__(self) -> str:
        return f"{self.key} ({self.values[0]} and {self.values[1]})"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """Compares two configs.

    Args:
        ours: a model's config.json.
        theirs: another one's.

    Returns:
        The most telling first; empty if they agree in all that a merge must have in common.
    """
    if all(
        _IGNORED.fullmatch(key) or (key in ours and key in theirs and _same(ours[key], theirs[key]))
        for key in {*ours, *theirs}
    ):
        return []
    spelled = _compared(*map(_top, (ours, theirs)))
    if any(one.key == "model_type" for one in spelled):  # all other keys are another type's
        return [one for one in spelled if one.key in _KIND]
    read = [as_transformers(config) for config in (ours, theirs)]
    if None in read:
        known = _declared_by(ours.get("model_type"))
        return sorted(_compared(*(dict(_flat(raw, known)) for raw in (ours, theirs))), key=_order)
    flat = [dict(_flat(config)) for config in read]
    found = _compared(*flat)
    keys = {path[0] for table in flat for path in table}
    said = {one.key.partition(".")[0] for one in found}
    for one in spelled:
        values = [config.get(one.key, _ABSENT) for config in (ours, theirs)]
        if one.key in keys:  # written otherwise and read alike: not in force with the other keys
            unused = one.key not in said and not any(map(_unset, values)) and _plain(*values)
        else:  # another spelling of a key, if what it says arrived
            arrived = all(map(_holds, flat, values))
            unused = bool(found) or not arrived
        if unused:
            found.append(Difference(one.key, one.values, False))
    return sorted(found, key=_order)


def as_transformers(config: Mapping[str, Any]) -> Any | None:
    """The config as transformers' own object.

    Returns:
        None if it does not know the type or refuses the values, and where it would ask the network
        or make very long lists.
    """
    transformers = optional("transformers")
    transformers.utils.logging.set_verbosity_error()
    kind = config.get("model_type")
    if not _known(kind) or not _harmless(config):
        return None
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(config)))
    except Exception:  # anything may stand in a config, and its class may stumble over any of it
        return None


def _compared(ours: Mapping[Path, Leaf], theirs: Mapping[Path, Leaf]) -> list[Difference]:
    """The keys on which two flat configs differ, but for those that never matter."""
    found = []
    for path in dict.fromkeys((*ours, *theirs)):
        mine, yours = (table.get(path, Leaf(_ABSENT)) for table in (ours, theirs))
        if _IGNORED.fullmatch(path[-1]) or _same(mine.value, yours.value):
            continue
        if path[-1] == "type" and (*path[:-1], "rope_type") in {**ours, **theirs}:
            continue  # its old spelling, which transformers leaves where it is
        unset = _unset(mine.value) or _unset(yours.value)
        nameless = _nameless(mine.value) or _nameless(yours.value)
        minor = (
            _USE.fullmatch(path[-1])
            or ("id2label" in path and nameless and not unset)
            or (path[-1] == "architectures" and unset)
            or not (mine.declared and yours.declared)
        )
        values = quoted(mine.value, _SHOWN), quoted(yours.value, _SHOWN)
        found.append(Difference(_key(path), values, not minor))
    return found


def _top(config: Mapping[str, Any]) -> dict[Path, Leaf]:
    """The keys of a config as its file has them, without what is nested."""
    return {(key,): Leaf(value) for key, value in config.items()}


def _flat(
    config: Any, known: Collection[str] | None = None, prefix: Path = (), declared: bool = True
) -> Iterator[tuple[Path, Leaf]]:
    """The values of a config, nested ones by the names on the way to them.

    Args:
        config: a table, or an object of transformers.
        known: the keys that its class declares; None for all.
        prefix: the names on the way to it.
        declared: whether they are.
    """
    if not isinstance(config, Mapping):
        known = _declared(type(config))
        config = {**vars(config), "model_type": type(config).model_type}
    for name, value in config.items():
        path, here = (*prefix, str(name)), declared and (known is None or name in known)
        nested = isinstance(value, Mapping) or _is_config(value)
        if nested and value != {} and len(path) < _DEPTH and not _IGNORED.fullmatch(path[-1]):
            yield from _flat(value, None, path, here)
        else:
            yield path, Leaf(value, here)


def _known(kind: Any) -> bool:
    """Whether transformers has a class for a type of models."""
    return isinstance(kind, str) and kind in optional("transformers").CONFIG_MAPPING


def _declared_by(kind: Any) -> Collection[str] | None:
    """The keys of a type of models, by all their names; None if it is not known."""
    if not _known(kind):
        return None
    config_class = optional("transformers").CONFIG_MAPPING[kind]
    old = {"rope_theta", "rope_scaling", "num_labels"}
    return _declared(config_class) | set(config_class.attribute_map) | old


def _declared(kind: type) -> set[str]:
    """The keys that a class of configs knows."""
    common = vars(optional("transformers").PreTrainedConfig())
    return {*inspect.signature(kind).parameters, *common, "model_type"}


def _is_config(value: Any) -> bool:
    return isinstance(value, optional("transformers").PreTrainedConfig)


def _harmless(config: Mapping[str, Any]) -> bool:
    """Whether transformers can read a config without the network, in bounded time and memory."""
    left: list[tuple[str, Any]] = [*config.items()]
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((name, one) for one in value)
        elif name == "backbone" and isinstance(value, str):
            return False  # the name of another model, whose config it would fetch
        elif isinstance(value, int) and value > _MANY and _COUNTS.fullmatch(name):
            return False
    return True


def _holds(table: Mapping[Path, Leaf], value: Any) -> bool:
    """Whether a value, or each one in a table of values, stands somewhere in a flat config."""
    if isinstance(value, Mapping):
        return all(_holds(table, one) for one in value.values())
    return _unset(value) or any(_same(leaf.value, value) for leaf in table.values())


def _plain(*values: Any) -> bool:
    return not any(isinstance(value, Mapping | list) for value in values)


def _same(mine: Any, yours: Any) -> bool:
    if _unset(mine) and _unset(yours):
        return True
    try:
        return bool(mine == yours) or _spelled(mine) == _spelled(yours)
    except (RecursionError, TypeError, ValueError):
        return False


def _spelled(value: Any) -> str:
    """A value as JSON has it: a tuple is a list, and NaN is like NaN."""
    return json.dumps(value)


def _unset(value: Any) -> bool:
    return value is None or value is _ABSENT


def _nameless(label: Any) -> bool:
    return isinstance(label, str) and _NO_NAME.fullmatch(label) is not None


def _order(one: Difference) -> tuple[bool, bool, bool, str]:
    return (not one.decides, one.key not in _KIND, repr(_ABSENT) in one.values, one.key)


def _key(path: Path) -> str:
    """A dotted key for a message, on one line and of bounded length."""
    text = ".".join(name[:_SHOWN] for name in path)[: 2 * _SHOWN]
    return text if text.isprintable() else ascii(text)
