"""Models made of models: one that sees has a vision tower, and each part is of a family of its own.

Which families, the nested configs say. So a data file of such a model declares what stands between
its parts, the projector, and takes their rows and spaces from their own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unmergeable.architectures.declaration import GUIDE, load, supported
from unmergeable.architectures.directions import softmax_heads
from unmergeable.architectures.reading import Config
from unmergeable.architectures.rules import Declaration, Kind, Part, SpaceRule, TensorRule
from unmergeable.errors import InputError, UnsupportedError, quoted


def composed(
    declaration: Declaration, config: Mapping[str, Any]
) -> tuple[Declaration, Mapping[str, Any]]:
    """The declaration that holds for one model's config, with those of its parts in it.

    Args:
        declaration: of its model type.
        config: its config.json.

    Returns:
        The declaration, and the config with what nested ones leave to their classes' defaults.

    Raises:
        InputError: a nested config that is missing.
        UnsupportedError: a part whose model type nobody has declared, or that has not what the
            whole needs of it.
    """
    if not declaration.parts:
        config = _by_kind(declaration, Config(config, declaration.aliases))
        return declaration.under(config), config
    _check_layers(declaration, config)
    given = dict(config)
    bare: set[str] = set()
    spaces: dict[str, SpaceRule] = {}
    rows, fused, norms, normed, behind = [], dict(declaration.fused), {}, {}, {}
    held: dict[str, str] = {}
    softmax = list(declaration.softmax)
    scores, sized = dict(declaration.score_norms), dict(declaration.sized)
    absent: set[str] = set()
    for part in declaration.parts:
        if part.optional and config.get(part.config) is None:
            absent |= {part.spaces.get(name, name) for name in load(part.like).spaces}
            continue
        tower, own = _tower(declaration, part, config)
        given[part.config] = own
        # What stands between the parts, which the whole says all of, whatever a part's config says.
        between = {old for old, new in part.spaces.items() if new in declaration.spaces}
        bound = part.of(tower.leaving(between).under(own))
        for name, rule in bound.spaces.items():
            if name in {part.spaces[old] for old in between}:
                continue
            if name in spaces and (rule.group or spaces[name].group):
                raise UnsupportedError(
                    f"{tower.family} cannot stand inside {declaration.family}: both parts have a "
                    f"space {name!r}. See {GUIDE}."
                )
            spaces[name] = replace(rule, within=part.config)
        bare |= bound.handed_out
        starts = part.starts(tower)
        if part.head:
            softmax += _compared(part, tower, own)
        rows += [part.row(rule.spelled_once(bound.also)) for rule in bound.tensors]
        for name, norm in bound.norms.items():
            norms[f"{part.config} {name}"] = norm.within(starts)
        for name, norm in bound.normed.items():
            normed[f"{part.config} {name}"] = norm.within(starts)
        for name, norm in bound.post_norms.items():
            behind[f"{part.config} {name}"] = norm.within(starts)
        for name, scored in bound.score_norms.items():
            scores[f"{part.config} {name}"] = scored.within(starts)
        held |= {start + name: why for start in starts for name, why in bound.bound.items()}
        softmax += [start + name for start in starts for name in bound.softmax]
        for name, why in bound.sized.items():
            own_name = name in bound.spaces
            sized |= dict.fromkeys([name] if own_name else (s + name for s in starts), why)
        start = starts[0]
        fused |= {start + one: start + other for one, other in bound.fused.items()}
    whole = Config(given, declaration.aliases)
    found = declaration.under(whole)
    spaces |= found.spaces
    joined = declaration.joined(whole)
    rows = [row.renamed(joined) for row in rows]
    absent -= spaces.keys()
    found = replace(found, tensors=tuple(r for r in found.tensors if not absent & _names(r)))
    heads = (row for rule in found.classes.values() for row in rule.tensors)
    for row in (*found.tensors, *heads):
        for name in _names(row):
            if name not in spaces:
                raise UnsupportedError(
                    f"{declaration.family} with these parts is not supported: none of them has a "
                    f"space {name!r}, which {row.templates[-1]!r} needs. See {GUIDE}."
                )
    tensors = (*rows, *found.tensors)
    outputs = tuple(sorted(bare & spaces.keys()))
    # What the whole says of a norm of a part stands for what the part says.
    said = {name for norm in found.norms.values() for name in norm.names}
    norms = {key: norm for key, norm in norms.items() if not said & {*norm.names}}
    norms |= found.norms
    normed |= found.normed
    behind |= found.post_norms
    held |= found.bound
    made = replace(found, spaces=spaces, tensors=tensors, fused=fused, norms=norms, bare=outputs)
    made = replace(made, bound=held, softmax=tuple(softmax), score_norms=scores, sized=sized)
    return replace(made, normed=normed, post_norms=behind), whole


def _names(row: TensorRule) -> set[str]:
    """The spaces on a row's axes."""
    return {name for axis in row.axes for name in axis.names()}


def _check_layers(declaration: Declaration, config: Mapping[str, Any]) -> None:
    """Refuses a projector that reads several layers side by side, where no row has room for them.

    Raises:
        UnsupportedError: it does.
    """
    layers = config.get("vision_feature_layer")
    if isinstance(layers, list) and len(layers) != 1 and "tap" not in declaration.spaces:
        raise UnsupportedError(
            f"config.json has {len(layers)} layers in vision_feature_layer, {quoted(layers)}: the "
            f"projector of {declaration.family} is declared for one."
        )


def _tower(
    declaration: Declaration, part: Part, config: Mapping[str, Any]
) -> tuple[Declaration, Mapping[str, Any]]:
    """A part's declaration, and its own config."""
    own = config.get(part.config)
    nested = isinstance(own, Mapping)
    if not nested and not (own is None and part.flat):
        raise InputError(
            f"config.json has no {part.config!r}, which {declaration.family} needs. Is this the "
            "config of these weights?"
        )
    own = own if isinstance(own, Mapping) else config
    tower = load(part.like)
    if nested and (named := own.get("model_type")) is not None:
        known = supported()
        if not isinstance(named, str) or named not in known or known[named].parts:
            raise UnsupportedError(
                f"the {part.config} of this {declaration.family} is of type {quoted(named)}, which "
                f"is not supported. To add it, write one data file: see {GUIDE}."
            )
        tower = known[named]
    if part.head and not part.headed(tower):
        raise UnsupportedError(
            f"{tower.family} cannot be the {part.config} of {declaration.family}: none of the "
            f"declared classes of it writes. See {GUIDE}."
        )
    return tower, _by_kind(tower, Config(own, tower.aliases, tower.defaults))


def _compared(part: Part, tower: Declaration, own: Mapping[str, Any]) -> list[str]:
    """The rows of a part's head that only a softmax reads, by the beginnings of their names."""
    name = part.headed(tower)
    heads = softmax_heads(name, tower.classes[name], own)
    return [start + one for start in part.names for one in heads]


_LAYERS = 1 << 16  # more than any model has


def _by_kind(declaration: Declaration, config: Config) -> Mapping[str, Any]:
    """The config with what it says of the layers of each kind, under the kind's name.

    Raises:
        UnsupportedError: settings of single layers that are not those of their kind, or that the
            declaration knows nothing of.
    """
    given = config.get("per_layer_config")
    if not given:
        return config
    refusal = UnsupportedError(
        "config.json gives single layers settings of their own (per_layer_config), which no "
        "declaration covers."
    )
    layers = config.get("num_hidden_layers")
    if not isinstance(given, Mapping) or type(layers) is not int or not 0 < layers < _LAYERS:
        raise refusal
    numbers = {str(at): given[str(at)] for at in range(layers) if str(at) in given}
    sizes = " ".join(rule.size or "" for rule in declaration.spaces.values())
    found: dict[str, dict[str, Any]] = {}
    covered = set()
    for name, condition in declaration.kinds.items():
        kind = Kind("layer", condition, config)
        members = [str(at) for at in range(layers) if kind.has(at)]
        own = [numbers.get(at) for at in members]
        if own and all(isinstance(one, Mapping) and one == own[0] for one in own):
            read = {key: v for key, v in dict(own[0] or {}).items() if f"{name}.{key}" in sizes}
            found[name] = read
            covered |= {(at, key) for at in members for key in read}
    for at, settings in given.items():
        if not isinstance(settings, Mapping) or any((at, key) not in covered for key in settings):
            raise refusal
    return Config({**config, **found}, {})
