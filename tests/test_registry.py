"""Registries find what a package's files define, whatever order they are in."""

import sys

import pytest

from unmergeable.registry import Registry, instances, subclasses

KIND = """
class Kind:
    order = 1000
    def __init__(self, name, order=1000):
        self.name, self.order = name, order
"""
FILES = {
    "__init__": "",
    "kind": KIND,
    "b": "from shelf.kind import Kind\nB = Kind('b')\nMORE = (Kind('c'), Kind('first', 1))",
    "a": "from shelf.b import B\nfrom shelf.kind import Kind\nA = Kind('a')\n"
    "class Own(Kind):\n    name = 'own'\nclass Nameless(Kind):\n    pass",
}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package; gone again after the test."""

    def made(**more):
        for name, text in {**FILES, **more}.items():
            (tmp_path / "shelf").mkdir(exist_ok=True)
            (tmp_path / "shelf" / f"{name}.py").write_text(text)
        from shelf.kind import Kind

        return Kind

    monkeypatch.syspath_prepend(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_every_object_is_found_once_in_order(shelf):
    found = Registry("shelf", instances(shelf()))
    assert list(found) == ["first", "b", "a", "c"] and len(found) == 4
    assert found["b"].name == "b" and "d" not in found


def test_classes_are_found_where_they_are_defined(shelf):
    assert {name: cls.__name__ for name, cls in Registry("shelf", subclasses(shelf())).items()} == {
        "own": "Own"
    }


def test_two_of_one_name_are_refused(shelf):
    kind = shelf(d="from shelf.kind import Kind\nD = Kind('a')")
    with pytest.raises(ValueError, match="two things in shelf are called 'a'"):
        len(Registry("shelf", instances(kind)))
