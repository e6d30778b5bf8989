"""Each defence's file says what whoever chooses one must know."""

from __future__ import annotations

import inspect

import pytest

from unmergeable.defences.registry import DEFENCES

MODULES = {
    name: inspect.getmodule(cls).__doc__ or "" for name, cls in DEFENCES.items() if name != "none"
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    "words", ["claim", "exact", "Data", "Architectures: ", "in the folder: ", "What undoes it: "]
)
def test_a_defence_says(name, words):
    text = " ".join(MODULES[name].split())
    assert words.lower() in text.lower()


@pytest.mark.parametrize("name", MODULES)
def test_a_published_defence_names_its_paper_and_what_is_not_the_papers(name):
    text = " ".join(MODULES[name].split())
    if name == "lock":
        assert "Source: ours" in text
    else:
        assert "arXiv 2" in text
        assert "Reconstructed from" in text or "Ours" in text or "ours" in text
