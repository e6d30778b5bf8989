"""What a newcomer is given to begin with."""

from __future__ import annotations

import tomllib

import pytest

from tests.architectures.families import FAMILIES
from tests.architectures.moving import scene, shapes
from unmergeable.architectures import declaration
from unmergeable.architectures.declaration import load, stems
from unmergeable.architectures.draft import draft, kinds_of
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError


class Folder(ModelFolder):
    """A folder in memory."""

    def __init__(self, name):
        self.__dict__.update(path=name, config=scene(name).saved, names=shapes(scene(name).state))

    shapes = property(lambda self: self.names)


def among(*without):
    """The data files that somebody has who adds the first of these."""
    return [stem for stem in stems() if stem not in without]


@pytest.mark.parametrize(
    ("name", "others", "nearest"),
    [
        ("seed-oss", (), "llama"),
        ("nemotron", ("jais2",), "stablelm"),
        ("gpt-bigcode", (), "gpt2"),
        ("mt5", ("umt5",), "t5"),
        ("camembert", ("xlm_roberta",), "roberta"),
    ],
)
def test_the_nearest_file_is_the_one_that_a_person_would_take(name, others, nearest):
    family = next(family for family in FAMILIES if family.name == name)
    own = [stem for stem in stems() if load(stem).model_type == family.config.model_type]
    begun = tomllib.loads(draft(Folder(name), among(*own, *others)))
    assert begun["model_type"] == family.config.model_type
    assert begun["like"] == nearest


def test_a_family_that_differs_in_nothing_needs_no_more_than_its_draft(monkeypatch):
    """It is used as it is printed."""
    text = draft(Folder("seed-oss"), among("seed_oss"))
    rule = declaration.read(declaration.laid_over(tomllib.loads(text)))
    from unmergeable.architectures import layout

    monkeypatch.setattr(layout, "declaration_for", lambda model_type: rule)
    stage = scene("seed-oss")
    placed = Layout.of(stage.saved, shapes(stage.state))
    for name, placement in stage.layout.placements.items():
        assert list(map(str, placed.placements[name].rule.axes)) == list(
            map(str, placement.rule.axes)
        )


def test_what_differs_is_asked_for_by_name_shape_and_likely_axes():
    text = draft(Folder("nemotron"), ["llama"])
    begun = tomllib.loads(text)
    assert begun["without"] == ["layers.{layer}.mlp.gate_proj.weight"]
    asked = set(begun["tensors"])
    assert asked == {
        "norm.bias", "layers.{layer}.input_layernorm.bias",
        "layers.{layer}.post_attention_layernorm.bias",
    }  # fmt: skip
    assert set(begun["tensors"].values()) == {"?"}
    assert '"norm.bias" = "?"  # 32: residual' in text
    with pytest.raises(ValueError, match=r"cannot read '\?'"):
        declaration.read(declaration.laid_over(begun))


def test_a_known_name_of_another_size_is_pointed_out():
    text = draft(Folder("phi3"), ["granite"])
    assert "# Look at " not in draft(Folder("granite"), ["llama"])
    assert '"layers.{layer}.self_attn.qkv_proj.weight" = "?"' in text
    assert "Look at transformer.h.{layer}.attn.c_attn.weight" in draft(
        Folder("gpt-bigcode"), ["gpt2"]
    )


def test_numbers_in_names_become_braces():
    kinds = kinds_of({"a.0.b.3.c": (1,), "a.1.b.2.c": (1,), "d": (2, 3)})
    assert [kind.template for kind in kinds] == ["a.{layer}.b.{expert}.c", "d"]


def test_a_folder_without_a_model_type_is_refused():
    folder = Folder("llama")
    folder.__dict__["config"] = {}
    with pytest.raises(InputError, match="names no model_type"):
        draft(folder)


def test_a_fault_in_a_data_file_names_the_file(monkeypatch):
    for table, message in (
        ({"family": "x"}, "toy.toml: nothing is called 'spaces'"),
        ({"family": "x", "spaces": {"a": {}}}, "toy.toml: space 'a' needs either"),
    ):
        load.cache_clear()
        monkeypatch.setattr(declaration, "_table", lambda stem, table=table: table)
        with pytest.raises(ValueError, match=message):
            load("toy")
    monkeypatch.undo()
    load.cache_clear()
