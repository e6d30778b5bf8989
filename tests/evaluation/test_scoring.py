from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.evaluation.living import TASK, VOCABULARY, model, runner, tokenizer
from unmergeable.errors import InputError
from unmergeable.evaluation import scoring
from unmergeable.evaluation.label_words import WordTask, label_tokens
from unmergeable.evaluation.scoring import WORST_LOSS, Score, readable, score
from unmergeable.evaluation.task import Item, buckets


def test_batched_logits_equal_those_of_the_whole_model_one_by_one():
    one, tokens = runner(), label_tokens(tokenizer(), TASK)
    batches = TASK.batches(one, [item.text for item in TASK.test])
    assert sorted(row for batch in batches for row in batch.items) == list(range(90))
    for batch in batches:
        got = TASK.logits(one.model, batch).detach().numpy()
        for item, row in zip(batch.items, got, strict=True):
            ids = tokenizer()(TASK.prompt(TASK.test[item].text), return_tensors="pt").input_ids
            with torch.no_grad():
                want = one.model(ids).logits[0, -1, tokens].numpy()
            np.testing.assert_allclose(row, want, atol=1e-6)


def test_accuracy_of_a_model_with_planted_answers():
    """Every hidden state is the same, so the head alone decides, for one label always."""
    module = model()
    with torch.no_grad():
        module.model.norm.weight.zero_()
    module.lm_head = torch.nn.Linear(32, len(VOCABULARY))
    for label, word in enumerate(TASK.words):
        with torch.no_grad():
            module.lm_head.bias.zero_()
            module.lm_head.bias[VOCABULARY.index(word)] = 1.0
        found = score(runner(module), TASK)
        assert found.marks == tuple(float(item.label == label) for item in TASK.test)
        assert max(found.losses) < 2
    assert score(runner(module), TASK, limit=10).total == 10


def test_weights_cast_once_give_the_same_bits_and_come_back(monkeypatch):
    one = runner()
    before = {name: (id(p), p.dtype) for name, p in one.model.named_parameters()}
    seen = []
    logits = WordTask.logits

    def spy(task, module, batch):
        layer = module.model.layers[0]
        seen.append((layer.mlp.up_proj.weight.dtype, module.lm_head.weight.dtype))
        return logits(task, module, batch)

    monkeypatch.setattr(WordTask, "logits", spy)
    monkeypatch.setattr(scoring, "computes_bfloat16", lambda device: True)
    found = score(one, TASK)
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert {name: (id(p), p.dtype) for name, p in one.model.named_parameters()} == before
    monkeypatch.setattr(scoring, "cast_once", lambda runner: nullcontext())
    assert score(one, TASK) == found and len(set(found.losses)) > 10


def test_not_a_number_is_a_wrong_answer():
    module = model()
    with torch.no_grad():
        module.model.norm.weight.fill_(float("nan"))
    found = score(runner(module), TASK)
    assert found.accuracy == 0 and found.loss == 100


def test_a_model_is_finite_if_every_answer_is():
    """A word that is no number ruins the items that have it, and no others."""
    module, word = model(), TASK.test[0].text.split()[0]
    assert score(runner(module), TASK).finite
    with torch.no_grad():
        module.model.embed_tokens.weight[VOCABULARY.index(word)] = float("nan")
    found = score(runner(module), TASK)
    ruined = [loss == WORST_LOSS for loss in found.losses]
    assert ruined == [word in item.text.split() for item in TASK.test]
    assert any(ruined) and not all(ruined) and not found.finite


@pytest.mark.parametrize("loss", [0.0, 98.5, 1e30, np.inf, -np.inf, np.nan])
def test_a_finite_loss_however_large_is_told_apart_from_none(loss):
    assert Score((1.0, 0.0), (0.5, readable(loss))).finite is bool(np.isfinite(loss))
    assert 0 <= readable(loss) <= WORST_LOSS


def test_buckets_take_each_item_once_and_keep_to_the_limit():
    lengths = [3, 50, 1, 7, 7, 20, 100, 2]
    groups = list(buckets(lengths, tokens=40))
    assert sorted(i for g in groups for i in g) == list(range(8))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 40
    assert len(groups) < 8


def test_buckets_pad_no_more_than_asked():
    lengths = [30, 29, 20, 19, 18, 5, 5, 4]
    groups = list(buckets(lengths, padding=4))
    assert groups == [[0, 1], [2, 3, 4], [5, 6, 7]]
    for group in groups:
        assert len(group) * lengths[group[0]] - sum(lengths[i] for i in group) <= 4
    assert list(buckets(lengths)) == [list(range(8))]
    assert list(buckets([7] * 5, padding=0)) == [list(range(5))]  # nothing to pad


def test_words_that_begin_alike_are_refused():
    with pytest.raises(InputError, match="begin with tokens"):
        label_tokens(tokenizer(), replace(TASK, words=("cat dog", "cat hen")))


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="no validation items"):
        score(runner(), TASK, "validation")


def test_wilson_interval():
    # Wilson's interval for 8 of 10, from the formula worked by hand: 0.490 to 0.943
    low, high = Score((1.0,) * 8 + (0.0,) * 2).interval
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    low, high = Score((0.0,) * 10).interval
    assert low == 0.0 and high > 0.2


def test_the_hash_sees_prompt_words_and_items_but_not_titles():
    changed = [
        replace(TASK, template="{text} is"),
        replace(TASK, words=("plant", "animal")),
        replace(TASK, test=TASK.test[::-1]),
        replace(TASK, train=(*TASK.train, Item("cat", 0))),
    ]
    assert len({task.content_hash for task in [TASK, *changed]}) == 5
    assert replace(TASK, title="other").content_hash == TASK.content_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "no text"}, "must hold"),
        ({"words": ("animal",)}, "label words"),
        ({"test": (Item("cat", 2),)}, "labels run from 0 to 1"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(TASK, **change)


def test_braces_in_a_text_are_kept():
    assert TASK.prompt("a {b} {text}") == "a {b} {text} is :"
