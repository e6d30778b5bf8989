"""The registry of suites: what can be said of it without a package or a model."""

import pytest

from unmergeable.field.suites import SUITES
from unmergeable.training.experts import HeadRecipe

EVERY = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)


@EVERY
def test_a_suite_has_the_tasks_that_its_merges_need(suite):
    names = [task.name for task in suite.tasks]
    assert len(set(names)) == len(names) >= (4 if suite.name == "decoder" else 6)
    assert suite.pair[0] != suite.pair[1] and set(suite.pair) <= set(suite.crowd)
    assert 4 <= len(set(suite.crowd)) == len(suite.crowd) <= 8


@EVERY
def test_heads_are_where_label_words_are_not(suite):
    for task in suite.tasks:
        assert isinstance(task.recipe, HeadRecipe) == (suite.name != "decoder")
