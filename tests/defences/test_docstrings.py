"""Each defence says what anyone who chooses one must know, and has what tables are made of."""

from __future__ import annotations

import inspect

import pytest

from tests.defences.rows import ROWS
from unmergeable.defences.registry import DEFENCES, gauge_defences

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
    if DEFENCES[name].paper == "ours":
        assert "Source: ours" in text
    else:
        assert "arXiv 2" in text
        assert "Reconstructed from" in text or "Ours" in text or "ours" in text


@pytest.mark.parametrize("name", MODULES)
def test_a_defence_has_what_tables_are_made_of(name):
    defence = DEFENCES[name]
    assert defence.title and defence.paper and defence.summary and defence.claims and defence.rows
    assert all(setting.help for setting in defence.settings.values())
    assert all(row.settings.keys() <= defence.settings.keys() for row in defence.rows)
    assert all(part in DEFENCES for row in defence.rows for part in row.then.split("+") if part)


def test_every_gauge_defence_has_a_row_in_the_tests_of_exactness():
    assert {"lock", *(row.defence.name for row in ROWS)} == gauge_defences().keys()
