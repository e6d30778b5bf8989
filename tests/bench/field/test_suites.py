"""The registry of suites: what can be said of it without a package or a model."""

import pickle

import pytest

from unmergeable.bench.field.suites import SUITES
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


@EVERY
def test_a_worker_knows_a_suite_that_it_is_sent_again(suite):
    """What a worker keeps by suite, it would else build anew for every job."""
    sent, again = pickle.dumps(suite), pickle.dumps(suite)
    assert pickle.loads(sent) == pickle.loads(again) == suite
    assert hash(pickle.loads(sent)) == hash(suite)
    assert len(set(SUITES.values())) == len(SUITES)
    assert len({task.make for task in suite.tasks}) == len(suite.tasks)
