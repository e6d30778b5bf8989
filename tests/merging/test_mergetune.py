"""MergeTune: the loss along the paths, and its stand-in for models without labels."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    answers,
    close,
    corpus,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.mergetune import along, path_loss, points
from unmergeable.merging.methods import OWN


def test_mergetune_lowers_the_loss_along_the_paths():
    given = ingredients("llama", labels=True)
    start, end = (OWN["mergetune"](given, steps=steps, rate=0.02).state for steps in (0, 8))
    for key in start:
        close(start[key], (given.models[0][key] + given.models[1][key]) / 2)
    assert path_loss(given, end) < path_loss(given, start)


def test_mergetune_imitates_models_whose_inputs_have_no_labels():
    given = ingredients("llama", labels=True)
    given = replace(given, corpora=[corpus(5), given.corpora[1]])

    def unlike(state):
        values = []
        for batch in given.corpora[0].batches:
            ours, theirs = (answers(given, s, batch) for s in (state, given.models[0]))
            values.append(1 - torch.nn.functional.cosine_similarity(ours, theirs).mean())
        return float(sum(values))

    start, end = (OWN["mergetune"](given, steps=steps, rate=0.001).state for steps in (0, 8))
    assert unlike(end) < unlike(start)
    with pytest.raises(InputError, match="needs labels, and no corpus has any"):
        OWN["mergetune"](replace(given, corpora=[corpus(5), corpus(6)]))
    with pytest.raises(InputError, match="mergetune got steps=1, rate=0"):
        OWN["mergetune"](given, steps=1, rate=0)


def test_paths_are_looked_at_as_in_the_official_code():
    assert [round(t, 9) for t in points(5)] == [0.1, 0.3, 0.5, 0.7, 0.9]
    given = ingredients("llama")
    middle = along(given.models[0], given.models[1], 0.25)
    for name, tensor in middle.items():
        close(tensor, 0.75 * given.models[0][name] + 0.25 * given.models[1][name])
