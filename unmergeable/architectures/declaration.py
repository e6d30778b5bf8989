"""The data files: one per family, checked as they are read."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from unmergeable.architectures.rules import (
    ClassRule,
    Declaration,
    Follows,
    NormRule,
    Part,
    ScoreNormRule,
    SpaceRule,
    TensorRule,
    Variant,
)
from unmergeable.architectures.sizes import holds
from unmergeable.errors import UnsupportedError, quoted
from unmergeable.gauge.groups import GROUPS
from unmergeable.gauge.notation import parse

GUIDE = "docs/architectures.md"
# Tables from the beginnings of names of norms or layer scales to those of matrices.
_NORMS = ("norms", "layer_scales", "normed", "normed_each", "post_norms")
# What a variant may change, and its condition.
_VARIED = {"when", "spaces", "score_norms", *_NORMS} - {"layer_scales"}
_SCORE_NORM = {"query", "key", "planes", "behind", "centred", "clipped", "bounded"}
# What a model adds to the stored gains of a norm, by the beginning of its name.
Offsets = Callable[[str], float]

# What says in a name which positions a row is for: "{layer:full}".
_KIND = re.compile(r"{(\w+):(\w+)}")
_LAST = "last"  # of norms, a kind that needs no condition

# Some words of which a name has one: "[q_proj k_proj].weight".
_WORDS = re.compile(r"\[([^\]]+)\]")
# How the names of a layer's tensors begin in a trunk.
_LAYERS = "layers.{layer}."

# Model types that are refused for a reason, not for want of a data file.
REFUSED = {
    "internlm2": "its code is not a part of transformers, so that no declaration of it can be "
    "proved. It computes what a Llama computes: convert the folder to one, and lock that",
    "gemma3n": "the tower that sees is one of timm's, which nobody has declared; the language "
    "model alone, gemma3n_text, is supported",
    "got_ocr2": "two linear maps stand behind one another between eyes and words, and the attack, "
    "which must undo every lock, cannot fit two such spaces in a row",
    "longcat_flash": "its layers have two blocks of attention and experts that do nothing, and the "
    "language of axes has no word for either",
    "mobilebert": "its norms divide by nothing, so that scales may differ from layer to layer, "
    "which the language of axes cannot say",
    "rt_detr": "nobody has declared its deformable attention, nor the convolutions of its encoder",
}


def stems() -> list[str]:
    """The names of all data files, without their ending."""
    folder = resources.files("unmergeable.architectures")
    return sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )


def supported() -> dict[str, Declaration]:
    """All declarations, by `model_type`."""
    return {declaration.model_type: declaration for declaration in map(load, stems())}


def declaration_for(model_type: Any) -> Declaration:
    """The declaration of a model type.

    Raises:
        UnsupportedError: nobody has declared it.
    """
    if isinstance(model_type, str):
        stem = model_type.replace("-", "_")
        if stem in stems() and load(stem).model_type == model_type:
            return load(stem)  # without reading the other files, which takes longer than all else
    if isinstance(model_type, str) and model_type in REFUSED:
        raise UnsupportedError(
            f"model_type {model_type!r} is refused: {REFUSED[model_type]}. {GUIDE} lists what is "
            "supported."
        )
    known = supported()
    if not isinstance(model_type, str) or model_type not in known:
        raise UnsupportedError(
            f"model_type {quoted(model_type)} is not supported. Supported: {_some(model_type)}. To "
            "add an architecture, write one data file: `python -m unmergeable.architectures.draft "
            f"FOLDER` begins it, {GUIDE} says how to go on."
        )
    return known[model_type]


def _some(model_type: Any) -> str:
    """Model types that are spelled like a name, and how many more there are."""
    known = supported()
    near = difflib.get_close_matches(str(model_type)[:100], known, 10, 0.3) or list(known)[:10]
    return f"{', '.join(near)} and {len(known) - len(near)} more, which {GUIDE} lists"


@cache
def load(stem: str) -> Declaration:
    """Reads `<stem>.toml` from the package.

    Raises:
        ValueError: a fault in the file; both are named.
    """
    try:
        return read(_table(stem))
    except KeyError as error:
        raise ValueError(f"{stem}.toml: nothing is called {error}") from error
    except ValueError as error:
        raise ValueError(f"{stem}.toml: {error}") from error


def _table(stem: str) -> dict[str, Any]:
    """A data file's content, laid over that of the files it is `like`."""
    return laid_over(own_table(stem))


def own_table(stem: str) -> dict[str, Any]:
    """What a data file itself says."""
    text = (resources.files("unmergeable.architectures") / f"{stem}.toml").read_text("utf-8")
    return tomllib.loads(text)


def laid_over(table: dict[str, Any]) -> dict[str, Any]:
    """A data file's content with all that it takes from the files it is `like`."""
    if "like" not in table:
        return table
    like = table.pop("like")
    base = _table(like) if isinstance(like, str) else _side_by_side(map(_table, like))
    base.pop("defaults", None)  # each class of transformers has its own
    without = tuple(table.pop("without", ()))  # beginnings of the names of rows not taken over
    base["tensors"] = {k: v for k, v in base["tensors"].items() if not k.startswith(without)}
    merged = {**base, **table}
    merged["variants"] = [*base.get("variants", ()), *table.get("variants", ())]
    for name, rule in table["classes"].items():
        if "like" in rule:  # a class of the base under another name
            table["classes"][name] = {**base["classes"][rule.pop("like")], **rule}
    for part in ("spaces", "tensors", *_NORMS, "bound", "score_norms", "sized"):
        merged[part] = {**base.get(part, {}), **table.get(part, {})}
    # A row that is required here replaces the optional row of the same name, and the reverse.
    for name in table.get("tensors", {}):
        merged["tensors"].pop(name.removesuffix("?") if name.endswith("?") else f"{name}?", None)
    return merged


def _side_by_side(towers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The spaces and trunks of several data files in one, each trunk's names with its prefix."""
    merged: dict[str, Any] = {"spaces": {}, "tensors": {}, "classes": {}, "variants": []}
    merged |= {part: {} for part in (*_NORMS, "bound", "sized")}
    for table in towers:
        trunk = table.get("trunk", "")
        merged["spaces"].update(table["spaces"])
        merged["variants"] += table.get("variants", ())
        for key, text in table["tensors"].items():
            merged["tensors"][" / ".join(trunk + name for name in key.split(" / "))] = text
        for part in _NORMS:
            for key, names in table.get(part, {}).items():
                inside = " ".join(trunk + name for name in key.split())
                merged[part][inside] = [*names, *(trunk + name for name in names)]
        for name, reason in table.get("bound", {}).items():
            merged["bound"][trunk + name] = reason
        for name, reason in table.get("sized", {}).items():
            merged["sized"][name if name in table["spaces"] else trunk + name] = reason
    return merged


def read(table: Mapping[str, Any]) -> Declaration:
    """Builds a declaration from a data file's content.

    Raises:
        ValueError: a fault in the file, named.
    """
    spaces = {name: _space(name, rule) for name, rule in table["spaces"].items()}
    for rule in spaces.values():
        _check_known(f"space {rule.name!r} is per", rule.per, spaces)
    trunk = table.get("trunk", "")
    parts = tuple(
        Part(
            part["config"],
            part["like"],
            tuple(part["names"]),
            part.get("flat", False),
            part.get("optional", False),
            part.get("spaces", {}),
            tuple(part.get("head", ())),
        )
        for part in table.get("parts", {}).values()
    )
    # A row may name spaces of the parts, as they are where a config says nothing of their types.
    known = {
        part.spaces.get(name, name): rule
        for part in parts
        for name, rule in load(part.like).spaces.items()
    } | spaces
    kinds, also = table.get("kinds", {}), tuple(table.get("also", ()))
    offsets = _offsets(table)
    norms = _norms(table.get("norms", {}), offsets)
    tensors = tuple(row.spelled_also(also) for row in _tensors(table["tensors"], trunk, known))
    if "ahead" in table:
        further = _ahead(table["ahead"], tensors, trunk, spaces)
        tensors, spaces, kinds = (*tensors, *further.rows), further.spaces, kinds | further.kinds
    named = {kind for row in tensors for _, kind in row.only}
    named |= {rule.kind for rule in norms.values() if rule.kind}
    if unknown := named - kinds.keys() or kinds.keys() & {_LAST}:
        raise ValueError(f"rows are for the kinds {sorted(unknown)}, which nobody declares")
    classes = {}
    for name, rule in table["classes"].items():
        outputs, lacks = tuple(rule.get("outputs", ())), tuple(rule.get("lacks", ()))
        _check_known(f"class {name} hands out", outputs, known)
        if idle := [one for one in lacks if not any(row.begins_with((one,)) for row in tensors)]:
            raise ValueError(f"class {name} lacks {idle}, with which no row of the trunk begins")
        head = _tensors(rule.get("tensors", {}), "", known)
        classes[name] = ClassRule(tuple(head), outputs, lacks)
    variants = tuple(_variant(one, spaces, known, offsets) for one in table.get("variants", ()))
    return Declaration(
        table["family"],
        table["model_type"],
        spaces,
        tensors,
        classes,
        variants,
        parts,
        table.get("defaults", {}),
        _fused(table.get("fused", {}), tensors),
        table.get("aliases", {}),
        table.get("unprefixed", False),
        norms=norms | _layer_scales(table.get("layer_scales", {})),
        normed=_normed(table, offsets),
        post_norms=_post_norms(table, offsets),
        bound=table.get("bound", {}),
        softmax=tuple(table.get("softmax", ())),
        score_norms=_score_norms(table.get("score_norms", {}), offsets),
        sized=table.get("sized", {}),
        also=also,
        kinds=kinds,
    )


def _offsets(table: Mapping[str, Any]) -> Offsets:
    """Reads what a model adds to stored gains: one number, and norms that have another."""
    usual, others = table.get("gain_offset", 0.0), table.get("gain_offsets", {})
    return lambda key: float(others.get(key, usual))


@dataclass(frozen=True)
class _Ahead:
    """The layers that predict further tokens: their rows, the spaces that number them, a kind."""

    rows: tuple[TensorRule, ...]
    spaces: dict[str, SpaceRule]
    kinds: dict[str, str]


def _ahead(
    table: Mapping[str, Any] | str,
    tensors: Iterable[TensorRule],
    trunk: str,
    spaces: Mapping[str, SpaceRule],
) -> _Ahead:
    """Reads what predicts further tokens, which a model may lack as a whole.

    Args:
        table: as in a data file, or the name of the file that has it.
        tensors: the rows of the trunk, of which such a layer has those of any layer.
        trunk: what may stand before their names.
        spaces: by name.
    """
    table = table if isinstance(table, Mapping) else own_table(table)["ahead"]
    if unknown := table.keys() - {"count", "layers", "tensors"}:
        raise ValueError(f"what predicts further tokens has {sorted(unknown)}")
    start = table.get("layers", _LAYERS)
    (space,) = re.findall(r"{(\w+)}", start)
    size = spaces[space].size
    every = dict(spaces) | {space: replace(spaces[space], ahead=table["count"])}
    top = "" if start == _LAYERS else start.partition(".")[0] + "."
    rows = []
    for row in tensors if top else ():
        inner = [name for name in row.templates if name.startswith(_LAYERS) and not row.only]
        for name in inner[-1:]:
            names = (start + name.removeprefix(_LAYERS), *row.templates)
            rows.append(replace(row, templates=names, optional=True, apart=True))
    for row in _tensors(table.get("tensors", {}), "" if top else trunk, every):
        only = ((space, "ahead"),) if space in row.indices() and not top else ()
        rows.append(replace(row, optional=True, apart=bool(top), only=only))
    return _Ahead(tuple(rows), every, {"ahead": f"not {space} < ({size})"})


def _norms(table: Mapping[str, Iterable[str]], offsets: Offsets) -> dict[str, NormRule]:
    """Reads which norms are read by what.

    A name is the beginning of a gain's and its bias's, without ".weight"; more such beginnings may
    follow. "{layer:last}" in it stands for the last layer alone, "{layer:full}" for those of a
    kind.
    """
    found = {}
    for key, readers in table.items():
        layer, kind = next(iter(_KIND.findall(key)), ("", ""))
        kind = "" if kind == _LAST else kind
        names = tuple(plain(key).split())
        found[key] = NormRule(names, tuple(readers), offsets(key), layer, kind)
    return found


def _layer_scales(table: Mapping[str, Iterable[str]]) -> dict[str, NormRule]:
    """Reads which layer scales multiply what which matrices and biases write, and nothing else."""
    return {key: NormRule((key,), tuple(writers), side="write") for key, writers in table.items()}


def _normed(table: Mapping[str, Any], offsets: Offsets) -> dict[str, NormRule]:
    """Reads which norms stand on what which matrices, tables and biases write, and nothing else."""
    return {
        key: NormRule(tuple(key.split()), tuple(writers), offsets(key), side="write", each=each)
        for part, each in (("normed", False), ("normed_each", True))
        for key, writers in table.get(part, {}).items()
    }


def _post_norms(table: Mapping[str, Any], offsets: Offsets) -> dict[str, NormRule]:
    """Reads which LayerNorms stand behind which blocks, on the sum of each and its stream."""
    rows = table.get("post_norms", {}).items()
    return {key: NormRule((key,), tuple(block), offsets(key), side="write") for key, block in rows}


def _score_norms(
    table: Mapping[str, Mapping[str, Any]], offsets: Offsets
) -> dict[str, ScoreNormRule]:
    """Reads which norms queries and keys pass through: each with what it normalises."""
    found = {}
    for start, rule in table.items():
        planes = rule["planes"]
        known = ("half", "interleaved", "axial", "none")
        if planes not in known or rule.keys() - _SCORE_NORM:
            raise ValueError(f"the norms of {start!r} say {dict(rule)}, which means nothing here")
        (query, query_rows), (key, key_rows) = (
            [(f"{start}.{name}",) for name in rule[side].split()] for side in ("query", "key")
        )
        found[start] = ScoreNormRule(
            query,
            query_rows,
            key,
            key_rows,
            planes,
            rule.get("behind", False),
            rule.get("centred", False),
            rule.get("clipped", False),
            rule.get("bounded", False),
            offsets(start),
        )
    return found


def _fused(table: Mapping[str, str], tensors: Iterable[TensorRule]) -> Mapping[str, str]:
    """Checks that rows which may stand for each other are there."""
    known = {row.templates[0] for row in tensors}
    if unknown := [name for pair in table.items() for name in pair if name not in known]:
        raise ValueError(f"fused rows that nobody declares: {unknown}")
    return table


def _variant(
    one: Mapping[str, Any],
    spaces: Mapping[str, SpaceRule],
    known: Mapping[str, SpaceRule],
    offsets: Offsets,
) -> Variant:
    holds(one["when"], {})  # a condition outside the language is a fault in the file
    if unknown := one.keys() - _VARIED:
        raise ValueError(f"a variant has {sorted(unknown)}; it changes spaces and norms alone")
    changed = one.get("spaces", {})
    _check_known(f"the variant {one['when']!r} changes", changed, spaces)
    for name, changes in changed.items():
        if "joins" in changes:
            _check_known(f"space {name!r} joins", (changes["joins"],), known)
            if len(changes) > 1 or any(name in rule.per for rule in spaces.values()):
                raise ValueError(f"space {name!r} cannot join another and be anything besides")
        elif not changes.keys() <= {"size", "group", "fixed"}:
            raise ValueError(f"a variant changes {sorted(changes)} of space {name!r}")
        _check_space(spaces[name].changed(changes))
    scores = _score_norms(one.get("score_norms", {}), offsets)
    norms, normed = _norms(one.get("norms", {}), offsets), _normed(one, offsets)
    return Variant(one["when"], changed, norms, scores, normed, _post_norms(one, offsets))


def _space(name: str, rule: Mapping[str, Any]) -> SpaceRule:
    if unknown := rule.keys() - {"size", "group", "fixed", "per", "ahead", "follows"}:
        raise ValueError(f"space {name!r} has {sorted(unknown)}, which mean nothing here")
    per = tuple(rule.get("per", ()))
    space = SpaceRule(name, rule.get("size"), rule.get("group"), rule.get("fixed", ""), per)
    follows = Follows(**rule["follows"]) if "follows" in rule else None
    return _check_space(replace(space, ahead=rule.get("ahead", ""), follows=follows))


def _check_space(space: SpaceRule) -> SpaceRule:
    if (space.group is None) == (not space.fixed):
        raise ValueError(f"space {space.name!r} needs either a group or the reason why it is fixed")
    if space.group is not None and (space.group not in GROUPS or space.size is None):
        raise ValueError(f"space {space.name!r} needs a size and a group among {sorted(GROUPS)}")
    return space


def _check_known(who: str, names: Iterable[str], spaces: Mapping[str, SpaceRule]) -> None:
    if unknown := [name for name in names if name not in spaces]:
        raise ValueError(f"{who} {unknown}, which nobody declares")


def plain(key: str) -> str:
    """The names of a row, without the kinds of positions that it is for."""
    return _KIND.sub(r"{\1}", key)


def each_name(key: str) -> list[str]:
    """The rows that one row stands for, whose names have one of some words: "[q_proj k_proj]".

    The same brackets twice are the same word, in two spellings of a name, say.
    """
    found = _WORDS.search(key)
    if not found:
        return [key]
    words = (key.replace(found[0], word) for word in found[1].split())
    return [name for one in words for name in each_name(one)]


def _tensors(
    table: Mapping[str, str], prefix: str, spaces: Mapping[str, SpaceRule]
) -> Iterator[TensorRule]:
    """The rows of a table: of layouts of one tensor, that of memory, which is the last, first."""
    for row, text in table.items():
        layouts = text.split(" / ")
        for key in each_name(row):
            for layout in reversed(layouts):
                yield replace(_tensor(key, layout, prefix, spaces), layouts=len(layouts) > 1)


def _tensor(key: str, text: str, prefix: str, spaces: Mapping[str, SpaceRule]) -> TensorRule:
    only = tuple(dict.fromkeys(_KIND.findall(key)))
    names = plain(key).removesuffix("?").split(" / ")
    axes = parse(text) if text else ()
    rule = TensorRule(tuple(names), axes, key.endswith("?"), prefix, only=only)
    _check_known(f"tensor {key!r} names the spaces", (n for a in axes for n in a.names()), spaces)
    _check_known(f"tensor {key!r} is numbered by", rule.indices(), spaces)
    return rule
