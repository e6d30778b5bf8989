"""Conditions on a config, and what a data file changes where they hold."""

from __future__ import annotations

import copy

import pytest

from unmergeable.architectures import declaration
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.sizes import evaluate, holds
from unmergeable.errors import InputError

CONFIG = {"a": 2, "b": 3, "off": False, "zero": 0, "none": None, "inner": {"word": "relu"}}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a", True), ("off", False), ("zero", False), ("none", False), ("absent", False),
        ("not absent", True), ("a == 2", True), ("a != 2", False), ("a < b", True),
        ("b < a", False), ("absent < a", False), ("absent != a", True), ("off == False", True),
        ("absent == False", False), ("a and off", False), ("a or off", True),
        ("off or absent", False), ("inner.word == 'relu'", True), ("inner.word == 'gelu'", False),
        ("'rel' in inner.word", True), ("'gel' in inner.word", False), ("'a' in absent", False),
        ("(absent or a) == 2", True), ("a + 1 == b and not off", True),
    ],
)  # fmt: skip
def test_conditions(condition, expected):
    assert holds(condition, CONFIG) is expected


@pytest.mark.parametrize("condition", ["f(a)", "a[b + 1]", "a is b", "a < b < 3", "[a]", "-a"])
def test_a_condition_outside_the_language_is_a_fault(condition):
    with pytest.raises(ValueError, match="not allowed"):
        holds(condition, CONFIG)


def test_a_difference_alone_may_be_nothing():
    assert evaluate("a - 2", CONFIG) == 0
    assert evaluate("b * (1 / 2) // 1", CONFIG) == 1
    for expression in ("zero", "a - b", "a * (a - 2)"):
        with pytest.raises(InputError, match="not a positive number"):
            evaluate(expression, CONFIG)


TABLE = {
    "family": "toy",
    "model_type": "toy",
    "spaces": {
        "wide": {"size": "a", "group": "permutation"},
        "word": {"size": "b", "fixed": "its reason"},
        "rest": {"size": "a - a", "group": "linear"},
    },
    "tensors": {"one": "wide", "two": "wide [word rest]"},
    "classes": {"Toy": {"tensors": {"head?": "word wide*"}}, "Bare": {"outputs": ["word"]}},
    "variants": [
        {"when": "clip", "spaces": {"wide": {"group": "signed permutation"}}},
        {"when": "big", "spaces": {"wide": {"size": "2 * a"}}},
        {"when": "tied", "spaces": {"wide": {"fixed": "tied"}, "word": {"group": "permutation"}}},
        {"when": "same", "spaces": {"word": {"joins": "wide"}}},
    ],
}


def spaces_and_rows(**config):
    rule = declaration.read(TABLE).under({"a": 2, "b": 3, **config})
    rows = (*rule.tensors, *rule.classes["Toy"].tensors)
    return rule.spaces, {row.templates[0]: " ".join(map(str, row.axes)) for row in rows}


def test_variants_change_what_they_name_and_nothing_else():
    spaces, rows = spaces_and_rows()
    assert (spaces["wide"].group, spaces["wide"].size) == ("permutation", "a")
    assert rows == {"one": "wide", "two": "wide [word rest]", "head": "word wide*"}
    assert spaces_and_rows(clip=False) == (spaces, rows)
    changed, same = spaces_and_rows(clip=0.5)
    assert same == rows and changed["word"] == spaces["word"]
    assert (changed["wide"].group, changed["wide"].size) == ("signed permutation", "a")


def test_variants_are_laid_one_over_the_other():
    spaces, _ = spaces_and_rows(clip=1, big=1)
    assert (spaces["wide"].group, spaces["wide"].size) == ("signed permutation", "2 * a")
    spaces, _ = spaces_and_rows(clip=1, big=1, tied=1)
    assert (spaces["wide"].group, spaces["wide"].fixed) == (None, "tied")
    assert (spaces["wide"].size, spaces["word"].group) == ("2 * a", "permutation")
    assert not spaces["word"].fixed


def test_a_space_joins_another_in_every_row_and_output():
    spaces, rows = spaces_and_rows(same=True)
    assert "word" not in spaces
    assert rows == {"one": "wide", "two": "wide [wide rest]", "head": "wide wide*"}
    assert declaration.read(TABLE).under({"same": 1}).classes["Bare"].outputs == ("wide",)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"when": "f(a)", "spaces": {}}, "not allowed"),
        ({"when": "a", "spaces": {}, "tensors": {"one": "word"}}, "spaces and norms alone"),
        ({"when": "a", "spaces": {"nowhere": {"size": "2"}}}, "nobody declares"),
        ({"when": "a", "spaces": {"wide": {"joins": "nowhere"}}}, "nobody declares"),
        ({"when": "a", "spaces": {"wide": {"joins": "word", "size": "2"}}}, "cannot join"),
        ({"when": "a", "spaces": {"wide": {"per": ["layer"]}}}, "changes"),
        ({"when": "a", "spaces": {"wide": {"group": "no group"}}}, "group among"),
    ],
)
def test_a_fault_in_a_variant_is_found_when_the_file_is_read(variant, message):
    table = copy.deepcopy(TABLE)
    table["variants"] = [variant]
    with pytest.raises(ValueError, match=message):
        declaration.read(table)


def test_a_space_of_no_positions_is_fixed(monkeypatch):
    from unmergeable.architectures import layout

    monkeypatch.setattr(layout, "declaration_for", lambda model_type: declaration.read(TABLE))
    config = {"model_type": "toy", "architectures": ["Toy"], "a": 2, "b": 3}
    found = Layout.of(config, {"one": (2,), "two": (2, 3)})
    assert found.spaces["rest"].fixed == "this model has no such positions"
    assert list(found.movable()) == ["wide"]
