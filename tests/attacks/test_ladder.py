"""The ladder, its words, and attacks that users add."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.attacks.robbed import ROBBED, corpus, thief_of
from unmergeable import registry
from unmergeable.attacks.attack import Attack
from unmergeable.attacks.ladder import CEILINGS, LADDER, attack_named, attacks
from unmergeable.attacks.price import Meter
from unmergeable.attacks.texts import in_order, items, pools, stream
from unmergeable.errors import InputError

ALL = (*LADDER, *CEILINGS)
STAGES = ["data-free", "text", "labels"]


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_each_attack_says_what_it_is(attack):
    assert attack.name.isidentifier() and attack.title and attack.what.endswith(".")
    assert [attack.before, attack.after, attack.instead].count(None) == 2
    assert (attack in CEILINGS) == (attack.instead is not None) == (attack.stage == "ceiling")
    assert attack.labels == attack.name.startswith("fine_tune")
    assert attack.labels <= (attack.stage in ("labels", "ceiling"))
    assert not (attack.texts and attack.stage == "data-free")


def test_the_ladder_rises_and_names_are_unique():
    steps = [STAGES.index(attack.stage) for attack in LADDER]
    assert steps == sorted(steps)
    assert len({attack.name for attack in ALL}) == len({attack.title for attack in ALL}) == len(ALL)
    assert list(attacks()) == [attack.name for attack in ALL]


def point(value, name="mine"):
    def load():
        if isinstance(value, Exception):
            raise value
        return value

    return SimpleNamespace(name=name, value=f"module:{name}", load=load)


def test_an_installed_package_adds_an_attack(monkeypatch):
    mine = Attack("mine", "mine", "Mine.", "data-free", before=lambda thief, state: iter(()))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point(mine)])
    assert attack_named("mine") is mine
    with pytest.raises(InputError, match=r"no attack 'none'; there is reset, .*, mine"):
        attack_named("none")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ImportError("no such module"), "fails: no such module"),
        (3, "is a int: it must"),
        (replace(LADDER[0]), "is called 'reset', a name in use"),
    ],
)
def test_an_entry_point_that_is_no_attack_is_refused(monkeypatch, value, message):
    monkeypatch.setattr(registry, "entry_points", lambda group: [point(value)])
    with pytest.raises(InputError, match=message):
        attacks()


def test_pools_grow_and_hold_each_other():
    thief, _ = thief_of(ROBBED[0])
    thief = replace(thief, texts={"near": corpus(ROBBED[0], 200, 1)})
    found = dict(pools(thief, "near"))
    assert list(found) == [32, 104, 200]
    parts = [set(map(id, some.batches)) for some in found.values()]
    assert parts[0] < parts[1] < parts[2]
    assert list(pools(thief, "generic")) == []


def test_batches_in_order_are_small_and_hold_the_first_items_first():
    lengths = [5 + (7 * row) % 60 for row in range(100)]
    groups = list(in_order(lengths, tokens=256, most=8))
    assert sorted(row for group in groups for row in group) == list(range(100))
    assert all(len(group) <= 8 for group in groups)
    assert all(len(group) * max(lengths[row] for row in group) <= 256 for group in groups)
    assert max(row for group in groups[:3] for row in group) < 32


def test_every_epoch_shows_everything_once():
    batches = corpus(ROBBED[0], 40, 1).batches
    steps = stream(batches, 16, 0)
    epochs = [[next(steps) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [items(step) for step in epoch] == [16, 16, 8]
        assert len({id(batch) for step in epoch for batch in step}) == 5
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_tokens_are_positions(family):
    thief, _ = thief_of(family)
    meter = Meter.of(thief)
    batch = corpus(family, 8, 1).batches[0]
    assert meter.tokens(batch) == (8 * 16 if family.image else 8 * 10)
    meter.forward([batch])
    meter.training([batch])
    size = sum(tensor.numel() for tensor in thief.base.values())
    assert meter.flops == 8 * size * meter.tokens(batch)


def test_vectors_without_a_row_are_counted_as_positions():
    batch = replace(corpus(ROBBED[0], 8, 1).batches[0], inputs={"x": torch.zeros(4, 3, 7)})
    assert Meter(10).tokens(batch) == 12
