"""Every declaration matters: change one, and the model breaks or is refused.

Each mutant is a data file with one name changed. The lock is drawn from it as ever and applied to a
tiny model in float64; outputs that still agree would mean that nothing tests that declaration.
"""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from dataclasses import replace
from functools import cache
from importlib import resources

import pytest
import torch

from tests.architectures import mutations_decoders as decoders
from tests.architectures import mutations_senses as senses
from tests.architectures.families import FAMILIES
from tests.architectures.families_moe import MOE_MODELS, MOE_TOO_LARGE
from tests.architectures.families_recurrent import (
    RECURRENT_MODELS,
    RECURRENT_TOO_LARGE,
    RECURRENT_UNSEEN,
)
from tests.architectures.families_text import TEXT_MODELS, TEXT_TOO_LARGE, TEXT_UNSEEN
from tests.architectures.moving import scene, shapes
from unmergeable.architectures import declaration, layout, rules
from unmergeable.architectures.composition import composed
from unmergeable.architectures.layout import Layout
from unmergeable.defences import lock
from unmergeable.errors import UnmergeableError
from unmergeable.keys.key import Key

BROKEN = 1e-6


class Every(tuple):
    """All names there are."""

    def __contains__(self, name: object) -> bool:
        return True


# The lock's elements, drawn once for all mutants: what a space's group is decides what moves.
GAUGE = lock.gauge(Key(bytes(range(32))), lock.LockSettings("lossless", Every(), scales=True))
MODELS = {
    "llama-biased": "llama",
    "qwen2": "qwen2",
    "gpt2-untied": "gpt2",
    "bert-pretraining": "bert",
    "bert-classifier": "bert",
    "roberta-masked": "roberta",
    "roberta-classifier": "roberta",
    "distilbert-masked": "distilbert",
    "distilbert-classifier": "distilbert",
    "modernbert-masked": "modernbert",
    "modernbert-classifier": "modernbert",
    "clip-classifier": "clip",
    "siglip": "siglip",
    "bart": "bart",
    "whisper": "whisper",
    "whisper-classifier": "whisper",
    "electra-generator": "electra",
    "electra-discriminator": "electra",
    "deberta-v3": "deberta_v2",
    "deberta-v2": "deberta_v2",
    "albert-classifier": "albert",
    "beit": "beit",
    "mpnet": "mpnet",
    "swin": "swin",
    "wav2vec2-classifier": "wav2vec2",
    "vit-classifier": "vit",
    "dinov2-classifier": "dinov2",
    "dinov2-gated": "dinov2",
    "t5": "t5",
    "t5-gated": "t5",
    "t5-classifier": "t5",
    **MOE_MODELS,
    **RECURRENT_MODELS,
    **decoders.MUTATED,
    **TEXT_MODELS,
    **senses.MUTATED,
    "llava": "llava",
    "llava-next": "llava_next",
    "paligemma": "paligemma",
    "gemma3-images": "gemma3",
    "mistral3": "mistral3",
    "pixtral": "pixtral",
    "idefics3": "idefics3",
    "internvl": "internvl",
    "internvl-vision": "internvl_vision",
    "qwen2-vl": "qwen2_vl",
    "qwen2.5-vl": "qwen2_5_vl",
    "qwen3-vl": "qwen3_vl",
    "gemma4-text": "gemma4_text",
    "gemma4": "gemma4",
    "gemma4-vision": "gemma4_vision",
    "gemma4-audio": "gemma4_audio",
    "gemma3n-text": "gemma3n_text",
    "llama4-vision": "llama4_vision_model",
    "glm4v": "glm4v",
    "gemma4-unified": "gemma4_unified",
    "aya-vision": "aya_vision",
    "qwen2-audio-encoder": "qwen2_audio_encoder",
}
# What no output depends on cannot break. The softmax over keys does not see a key bias that no
# rotary turns; the mask token is for training.
UNSEEN = {
    "gpt2": re.compile(r"c_attn\.bias"),
    "bert": re.compile(r"key\.bias"),
    "roberta": re.compile(r"key\.bias"),
    "distilbert": re.compile(r"k_lin\.bias"),
    "clip": re.compile(r"k_proj\.bias|post_layernorm"),
    "electra": re.compile(r"key\.bias"),
    "deberta_v2": re.compile(r"pos_key_proj\.bias"),  # shared projections see it
    "albert": re.compile(r"key\.bias"),
    "mpnet": re.compile(r"attn\.k\.bias"),
    "swin": re.compile(r"key\.bias"),
    "wav2vec2": re.compile(r"k_proj\.bias"),
    "bart": re.compile(r"k_proj\.bias"),
    "internvl_vision": re.compile(r"k_proj\.bias"),
    "siglip": re.compile(
        r"k_proj\.bias|"
        r"in_proj_bias\? \[\(pool_head pool_qk\) \(\w+ \w+\*?\) \(pool_head pool_vo\)\]"
    ),
    "vit": re.compile(r"key\.bias|mask_token"),
    "dinov2": re.compile(r"key\.bias|mask_token"),
    **{
        stem: re.compile(pattern)
        for unseen in (decoders.UNSEEN, TEXT_UNSEEN, RECURRENT_UNSEEN, senses.UNSEEN)
        for stem, pattern in unseen.items()
    },
}
# Groups of orthogonal elements, which are their own inverse transposes.
ISOMETRIES = {
    "permutation", "signed permutation", "rotary interleaved turns", "rotary half quarter turns",
    "rotary half signs", "rotary axial signs",
}  # fmt: skip
# Rows that only say of other layers what mutated rows say of theirs.
_STAGES = re.compile(r"layers\.[23]\.blocks|layers\.[12]\.downsample")
REPEATED = {"swin": _STAGES, "swinv2": _STAGES}


def tables(stem, family):
    """The tables of rows that speak of this model's tensors, by where they stand in the file."""
    table = table_of(stem)
    present = tensors_of(family)
    heads = table["classes"][family.model].get("tensors", {})
    for place, rows, prefix in (
        (("tensors",), table["tensors"], table.get("trunk", "")),
        (("classes", family.model, "tensors"), heads, ""),
    ):
        yield place, {key: text for key, text in rows.items() if stands_for(key, prefix, present)}


def stands_for(key, prefix, present):
    names = (declaration.plain(one).removesuffix("?") for one in declaration.each_name(key))
    patterns = rules.patterns(tuple(n for one in names for n in one.split(" / ")), prefix)
    return any(pattern.fullmatch(name) for pattern in patterns for name in present)


def mutants(stem, family):
    """(place, tensor, mutated axes): every name in every row, changed in every way that matters."""
    spaces = under(stem, family)
    for place, table in tables(stem, family):
        for tensor, text in table.items():
            if stem in REPEATED and REPEATED[stem].search(tensor):
                continue
            for match in re.finditer(r"(\|?)(\w+)\|?\*?", text):
                name, group = match[2], spaces[match[2]].group
                if group is None:
                    continue
                swaps = {"still_" + name}  # this tensor is left behind
                if name.endswith(("qk", "vo")):
                    other = name[:-2] + {"qk": "vo", "vo": "qk"}[name[-2:]]
                    swaps.add(other + match[0][len(name) :])
                if "*" in match[0] and group not in ISOMETRIES:
                    swaps.add(name)
                if match[1] and group != "permutation":
                    swaps.add(name)
                for swap in swaps:
                    yield place, tensor, text[: match.start()] + swap + text[match.end() :]


def under(stem, family):
    """The spaces as they are for this model, variants included; still where they cannot move."""
    rule = declaration.load(stem)
    whole, _ = composed(rule, scene(family.name).saved)
    spaces = dict(whole.spaces)
    for variant in rule.variants:
        for name, changes in variant.spaces.items():
            if name not in spaces:
                spaces[name] = spaces[changes["joins"]]
    handed_out, known = rule.classes[family.model].outputs, scene(family.name).layout.spaces
    alone = {name for name, space in known.items() if space.size == 1}
    return {
        name: replace(rule, group=None)
        if name in handed_out or (rule.group == "permutation" and name in alone)
        else rule
        for name, rule in spaces.items()
    }


@cache
def table_of(stem):
    """A data file's content, read once."""
    return declaration._table(stem)


def with_row(stem, place, tensor, text):
    """The declaration with one row changed, or without it."""
    table = deepcopy(table_of(stem))
    for part in table.get("parts", {}).values():  # of any size, as a part's config has theirs
        for name in declaration.load(part["like"]).spaces:
            table["spaces"]["still_" + name] = {"fixed": "left behind by a mutation"}
    for name, rule in list(table["spaces"].items()):
        still = {**rule, "fixed": "left behind by a mutation"}
        still.pop("group", None)
        table["spaces"].setdefault("still_" + name, still)
    rows = table
    for part in place:
        rows = rows[part]
    if text is None:
        del rows[tensor]
        table.get("fused", {}).pop(tensor, None)
    else:
        rows[tensor] = text
    return declaration.read(table)


def difference(family, rule, monkeypatch, stage=None, known=None):
    """The relative output error of a lock drawn from that declaration."""
    stage = stage or scene(family.name)
    monkeypatch.setattr(layout, "declaration_for", lambda model_type: rule)
    return stage.error(GAUGE, Layout.of(stage.saved, shapes(stage.state)), known)


def family_named(name):
    return next(family for family in FAMILIES if family.name == name)


@pytest.mark.parametrize("name", MODELS)
def test_every_declaration_matters(name, monkeypatch):
    family, stem, known = family_named(name), MODELS[name], {}

    def broken(*row):
        return difference(family, with_row(stem, *row), monkeypatch, known=known)

    assert broken(("tensors",), "none?", "") < 1e-9
    tried, survivors = 0, []
    for place, tensor, text in mutants(stem, family):
        tried += 1
        try:
            error = broken(place, tensor, text)
        except (UnmergeableError, ValueError, KeyError):
            continue
        if error <= BROKEN:  # what is no number is broken, too
            survivors.append((tensor, text, error))
    unseen = UNSEEN.get(stem)
    survivors = [
        found for found in survivors if not (unseen and unseen.search(f"{found[0]} {found[1]}"))
    ]
    assert not survivors
    assert tried >= (1 if declaration.load(stem).parts else 15)  # parts are broken on their own


# Another class of the family may have a row of that name, and a name may end as another one does.
UNPLACED = "nobody has declared the tensor|has no tensor '|behind the prefix"


@pytest.mark.parametrize("name", MODELS)
def test_a_row_taken_away_is_noticed(name, monkeypatch):
    family, stem = family_named(name), MODELS[name]
    for place, table in tables(stem, family):
        for tensor in table:
            with pytest.raises(UnmergeableError, match=UNPLACED):
                difference(family, with_row(stem, place, tensor, None), monkeypatch)


def tensors_of(family):
    return scene(family.name).state


@pytest.mark.parametrize(
    ("name", "space", "group"),
    [
        ("llama-biased", "qk", "linear"),  # right at position 0 only
        ("llama-biased", "qk", "rotary interleaved"),
        ("llama-biased", "residual", "scaled permutation"),
        ("gpt2-untied", "residual", "signed permutation"),
        ("gpt2-untied", "ffn", "signed permutation"),
        ("bert-classifier", "residual", "signed permutation"),
        ("bert-classifier", "pooled", "scaled permutation"),
        ("vit-classifier", "ffn", "scaled permutation"),
        ("dinov2-classifier", "residual", "signed permutation"),
        ("t5", "residual", "scaled permutation"),
        ("t5", "ffn", "scaled permutation"),
        ("t5", "decoder_ffn", "signed permutation"),
        ("t5-gelu", "ffn", "positive scaled permutation"),
        *MOE_TOO_LARGE,
        *RECURRENT_TOO_LARGE,
        *decoders.TOO_LARGE,
        *TEXT_TOO_LARGE,
        *senses.TOO_LARGE,
    ],
)
def test_a_group_too_large_breaks_the_model(name, space, group, monkeypatch):
    family = family_named(name)
    table = declaration._table(family.config.model_type)
    table["spaces"][space]["group"] = group
    table["spaces"][space].pop("fixed", None)
    for variant in table.get("variants", ()):
        for key in ("group", "fixed", "joins"):
            variant.get("spaces", {}).get(space, {}).pop(key, None)
    assert difference(family, declaration.read(table), monkeypatch) > BROKEN


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3"])
def test_experts_that_leave_their_group_break_the_model(name, monkeypatch):
    """The router chooses among groups first; an order of all experts alike does not see that."""
    table = declaration._table(MODELS[name])
    table["spaces"]["cluster"]["size"] = "1"
    table["spaces"]["member"]["size"] = "n_routed_experts or num_local_experts"
    assert difference(family_named(name), declaration.read(table), monkeypatch) > BROKEN


def test_a_transform_right_only_at_the_first_position_is_caught(monkeypatch):
    """The classic mistake: a general matrix on rotary queries and keys."""
    family = family_named("llama-biased")
    table = declaration._table("llama")
    table["spaces"]["qk"]["group"] = "linear"
    rule = declaration.read(table)
    one = family.inputs(torch.float64)["input_ids"][:, :1]
    monkeypatch.setattr(type(family), "inputs", lambda *_, **__: {"input_ids": one})
    assert difference(family, rule, monkeypatch, scene.__wrapped__(family.name)) < 1e-9
    monkeypatch.undo()
    assert difference(family, rule, monkeypatch) > BROKEN


def test_the_data_files_are_read_as_toml():
    folder = resources.files("unmergeable.architectures")
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    assert {tomllib.loads(file.read_text())["model_type"] for file in files} == set(
        declaration.supported()
    )
