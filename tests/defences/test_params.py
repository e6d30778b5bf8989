"""PaRaMS: what is assigned, drawn and refused. Exactness is in `test_exactness`."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as over
from hypothesis import settings, strategies

from tests.architectures.families import FAMILIES
from tests.architectures.twin import KEY, subject_of
from unmergeable.defences.params import RANGES, Params, features, mismatch
from unmergeable.defences.roles import NEURONS, spaces_for
from unmergeable.errors import InputError, ManifestError, PrecisionError
from unmergeable.gauge.notation import Space
from unmergeable.keys.key import Key

BY_NAME = {family.name: family for family in FAMILIES}
DEFENCE = Params()


def decided(family, dtype=torch.float32, **given):
    subject = subject_of(BY_NAME[family], dtype)
    decision = DEFENCE.decide(given, subject)
    gauge = DEFENCE.gauge(subject.key, subject.layout, decision.settings, decision.secret)
    return subject, decision, gauge


@over(strategies.integers(1, 6), strategies.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_assignment_is_the_smallest_there_is(size, seed):
    cost = np.random.default_rng(seed).normal(size=(size, size))
    every = np.arange(size)
    source = mismatch(cost)
    best = min(cost[list(order), every].sum() for order in itertools.permutations(range(size)))
    assert sorted(source) == list(range(size))
    assert cost[source, every].sum() == pytest.approx(best)


def test_as_published_is_the_inverse_and_no_better():
    cost = np.random.default_rng(3).normal(size=(30, 30))
    ours, published = mismatch(cost), mismatch(cost, as_published=True)
    assert (ours[published] == np.arange(30)).all() and (ours != published).any()
    every = np.arange(30)
    random = np.random.default_rng(4).permutation(30)
    sums = [cost[order, every].sum() for order in (ours, published, random)]
    assert sums[0] < sums[1] and sums[0] < sums[2]


@pytest.mark.parametrize("family", ["llama", "gpt2", "dinov2-gated", "t5", "t5-gated"])
def test_neurons_stand_where_they_are_least_like_the_base_s(family):
    """Moved weights, looked at as files: unlike the base, and less like it than in random order."""
    subject, decision, gauge = decided(family, parts="mlp")
    layout = subject.layout

    def moved(name):
        return layout.tensor_map(name, gauge)(subject.values(name))

    random = np.random.default_rng(0)
    for space in spaces_for(layout, *NEURONS):
        for instance in layout.instances(space):
            base = features(layout, space, instance, subject.base)
            there = features(layout, space, instance, moved)
            here = features(layout, space, instance, subject.values)
            orders = (random.permutation(len(base)) for _ in range(50))
            assert (there * base).sum() < min((here[order] * base).sum() for order in orders)
            assert (here * base).sum() > 0
    assert decision.measured["mlp"]["before"] > 0.9 > 0 > decision.measured["mlp"]["after"]


def test_as_published_reaches_the_model_and_displaces_less():
    subject = subject_of(BY_NAME["gpt2"], tau=2.0)  # far from its base, C is no longer symmetric
    after = {}
    for flag in ("true", "false"):
        decision = DEFENCE.decide({"parts": "mlp", "as_published": flag}, subject)
        assert decision.settings["as_published"] is (flag == "true") and decision.lossless
        after[flag] = decision.measured["mlp"]["after"]
    assert after["false"] < after["true"]


FEATURES = {
    # up's and down's 24 each; a bias with up; a gate's 24 too.
    "gpt2": 24 + 1 + 24,
    "bert-masked": 24 + 1 + 24,
    "llama": 3 * 24,
    "llama-biased": 3 * 24 + 2,
    "dinov2-gated": 3 * 24 + 2,
    "t5": 2 * 24,
    "t5-gated": 3 * 24,
}


@pytest.mark.parametrize("family", FEATURES)
def test_features_hold_all_that_touches_a_neuron(family):
    subject = subject_of(BY_NAME[family])
    (space, *_) = spaces_for(subject.layout, *NEURONS)
    rows = features(subject.layout, space, (1,), subject.values)
    assert rows.shape == (space.size, FEATURES[family])
    touching = [
        name
        for name, placement in subject.layout.placements.items()
        if placement.index.get("layer") == 1
        and any(space.name in axis.names() for axis in placement.rule.axes)
    ]
    # Every number of those tensors once, bar none.
    numbers = np.concatenate([subject.values(name).ravel() for name in touching])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(rows.ravel()))


def test_transposed_storage_shows_the_same_neurons():
    subject = subject_of(BY_NAME["gpt2"])
    rows = features(subject.layout, subject.layout.spaces["ffn"], (0,), subject.values)
    up, down = (subject.values(f"transformer.h.0.mlp.{x}.weight") for x in ("c_fc", "c_proj"))
    bias = subject.values("transformer.h.0.mlp.c_fc.bias")
    expected = np.concatenate([bias[:, None], up.T, down], axis=1)
    np.testing.assert_array_equal(rows, expected)


def drawn(space, variant, count=40):
    layout = subject_of(BY_NAME["gpt2"]).layout
    low, high = RANGES[variant]
    given = {"parts": "heads", "variant": variant, "low": low, "high": high, "as_published": False}
    for number in range(count):
        gauge = DEFENCE.gauge(Key(bytes([number]) * 32), layout, given, b"")
        yield gauge(space, (0, 0))(np.eye(space.size))


def head(size=64):
    layout = subject_of(BY_NAME["gpt2"]).layout
    return Space("vo", size, layout.spaces["vo"].group, per=("layer", "head"))


def test_the_laws_are_those_of_the_published_code():
    """Medians of condition numbers as measured for heads of 64: 75, 335 and about 6 000."""
    medians = {"diagonal": 75, "symmetric": 335, "nonsymmetric": 6000}
    for variant, median in medians.items():
        matrices = list(drawn(head(), variant))
        numbers = [np.linalg.cond(matrix) for matrix in matrices]
        assert 0.5 < np.median(numbers) / median < 2, variant
        low, high = RANGES[variant]
        if variant == "diagonal":
            entries = np.concatenate([np.diag(matrix) for matrix in matrices])
            assert low < entries.min() and entries.max() < high
            assert entries.mean() == pytest.approx((low + high) / 2, rel=0.03)
        if variant == "symmetric":
            for matrix in matrices:
                np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
            logs = np.log(np.concatenate([np.linalg.eigvalsh(m) for m in matrices]))
            assert np.log(low) < logs.min() and logs.max() < np.log(high)
            assert logs.mean() == pytest.approx((np.log(low) + np.log(high)) / 2, abs=0.1)
        if variant == "nonsymmetric":
            # Columns of a Gaussian matrix have norms near 8: what is left is the scale.
            norms = np.concatenate([np.linalg.norm(matrix, axis=0) for matrix in matrices]) / 8
            assert low / 1.5 < norms.min() and norms.max() < high * 1.5
            assert np.log(norms).mean() == pytest.approx(np.log(low * high) / 2, abs=0.1)


@pytest.mark.parametrize("variant", RANGES)
def test_rotary_planes_get_one_number_each(variant):
    subject, decision, gauge = decided("llama", parts="heads", variant=variant, tolerance=1e9)
    space = subject.layout.spaces["qk"]
    real, imaginary = space.group.planes(space.size)
    low, high = RANGES[variant]
    for instance in subject.layout.instances(space):
        matrix = gauge(space, instance)(np.eye(space.size))
        numbers = matrix[real, real] + 1j * matrix[imaginary, real]
        assert (np.abs(numbers) > low).all() and (np.abs(numbers) < high).all()
        turned = np.abs(np.angle(numbers)).max() > 1e-9
        assert turned == (variant != "diagonal") and (turned or (numbers.real > 0).all())
    assert decision.measured["condition"]["qk"]["largest"] < high / low


def test_one_element_serves_a_head_s_two_spaces_where_they_are_of_one_kind():
    for family, same in (("gpt2", True), ("t5", True), ("llama", False)):
        subject, _, gauge = decided(family, parts="heads")
        one, two = (
            gauge(subject.layout.spaces[name], (0, 1))(np.eye(subject.layout.spaces[name].size))
            for name in ("qk", "vo")
        )
        assert bool(np.array_equal(one, two)) is same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ranges_can_be_narrowed(dtype):
    given = {"low": "0.8", "high": "1.25", "variant": "symmetric"}
    _, decision, _ = decided("gpt2", dtype, parts="heads", **given)
    assert 1 < decision.measured["condition"]["vo"]["largest"] <= 1.25 / 0.8
    assert json.loads(json.dumps(decision.settings))["high"] == 1.25


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("variant", ["symmetric", "nonsymmetric"])
def test_what_bfloat16_cannot_hold_is_refused(family, variant):
    with pytest.raises(PrecisionError) as caught:
        decided(family, torch.bfloat16, parts="heads", variant=variant)
    for part in ("BF16", "condition number", "--set low=", "--set variant=diagonal", "float32"):
        assert part in str(caught.value)
    _, decision, _ = decided(family, parts="heads", variant=variant)  # float32 holds it
    assert 0 < decision.measured["rounding"]["vo"]["median"] < 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_bfloat16_holds_the_diagonal(family):
    _, decision, _ = decided(family, torch.bfloat16)
    for cost in (decision.measured["rounding"][role] for role in ("qk", "vo")):
        assert cost["median"] == pytest.approx(cost["unmoved"], rel=0.2)
        assert 1e-3 < cost["unmoved"] < 4e-3


def test_the_tolerance_decides():
    with pytest.raises(PrecisionError, match=r"allowed 0\.001"):
        decided("gpt2", torch.bfloat16, tolerance="0.001")
    decided("gpt2", torch.bfloat16, variant="nonsymmetric", tolerance="1e6")


def test_the_secret_holds_the_permutations_and_nothing_else_does():
    subject, decision, gauge = decided("t5")
    again = DEFENCE.gauge(subject.key, subject.layout, decision.settings, decision.secret)
    other = DEFENCE.gauge(Key(bytes(32)), subject.layout, decision.settings, decision.secret)
    for space in spaces_for(subject.layout, *NEURONS):
        for instance in subject.layout.instances(space):
            source = gauge(space, instance).source
            assert (again(space, instance).source == source).all()
            assert (other(space, instance).source == source).all()
    # 5 layers of 40 neurons at 2 bytes each, less what deflating saves.
    assert len(decision.secret) < 5 * 40 * 2
    vo = subject.layout.spaces["vo"]
    assert not np.array_equal(gauge(vo, (0, 0)).scale, other(vo, (0, 0)).scale)
    assert DEFENCE.decide({"parts": "heads"}, subject).secret == b""


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "repeated"])
def test_a_damaged_secret_is_noticed(damage):
    import zlib

    subject, decision, _ = decided("gpt2", parts="mlp")
    plain = zlib.decompress(decision.secret)
    secret = {
        "cut": decision.secret[:-9],
        "empty": b"",
        "foreign": zlib.compress(plain + b"\0\0"),
        "repeated": zlib.compress(plain[:2] * (len(plain) // 2)),
    }[damage]
    with pytest.raises(ManifestError, match="permutations"):
        DEFENCE.gauge(KEY, subject.layout, decision.settings, secret)


def test_without_the_base_there_is_nothing_to_mismatch():
    subject = replace(subject_of(BY_NAME["gpt2"]), base=None)
    with pytest.raises(InputError, match="--base"):
        DEFENCE.decide({}, subject)
    assert DEFENCE.decide({"parts": "heads"}, subject).bits.keys() == {"qk", "vo"}


def test_a_base_of_other_shapes_is_named():
    subject = subject_of(BY_NAME["gpt2"])
    twice = replace(subject, base=lambda name: np.concatenate([subject.base(name)] * 2, axis=0))
    with pytest.raises(InputError, match=r"mlp.c_fc.bias has shape \(192,\) .* not \(96,\)"):
        DEFENCE.decide({"parts": "mlp"}, twice)
    empty = replace(subject, base={}.__getitem__)
    with pytest.raises(InputError, match=r"the base has no tensor 'transformer.*c_fc"):
        DEFENCE.decide({"parts": "mlp"}, empty)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"variant": "dense"}, "variant='dense': choose diagonal, symmetric or nonsymmetric"),
        ({"parts": "all"}, "parts='all'"),
        ({"as_published": "maybe"}, "as_published='maybe': choose true or false"),
        ({"low": "3", "high": "2"}, "low=3 is above high=2"),
        ({"low": "0"}, "low='0'"),
        ({"scale": 3}, "no setting 'scale'"),
    ],
)
def test_settings_it_cannot_use_are_named(given, match):
    with pytest.raises(InputError, match=match):
        DEFENCE.decide(given, subject_of(BY_NAME["gpt2"]))


# First row of the element and its trace: the drawing is part of the key format.
VECTORS = [
    ("llama", "diagonal", "qk", [4.375686, 0.0, 0.0, 0.0], 31.110458),
    ("llama", "symmetric", "qk", [-0.100192, 0.0, 0.153496, 0.0], -2.985621),
    ("llama", "nonsymmetric", "qk", [-0.161994, 0.0, 0.248179, 0.0], -3.546959),
    ("llama", "diagonal", "vo", [4.961887, 0.0, 0.0, 0.0], 28.455456),
    ("llama", "symmetric", "vo", [0.642737, 0.784594, -1.426038, 0.219477], 7.748741),
    ("llama", "nonsymmetric", "vo", [-0.777249, -0.013622, 0.086366, -1.228792], -8.162428),
    ("gpt2", "diagonal", "qk", [4.961887, 0.0, 0.0, 0.0, 0.0, 0.0], 45.58731),
]


@pytest.mark.parametrize(("family", "variant", "name", "row", "trace"), VECTORS)
def test_the_draws_of_a_key_never_change(family, variant, name, row, trace):
    subject, _, gauge = decided(family, parts="heads", variant=variant, tolerance=1e9)
    assert subject.key == KEY
    space = subject.layout.spaces[name]
    matrix = gauge(space, (1, 0))(np.eye(space.size))
    np.testing.assert_allclose(matrix[0], row, atol=1e-6)
    assert np.trace(matrix) == pytest.approx(trace, abs=1e-5)
