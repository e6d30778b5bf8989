"""MergeLock-style: what is drawn, and what is refused. Exactness is in `test_exactness`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.architectures.families import FAMILIES
from tests.architectures.twin import subject_of
from unmergeable.defences.mergelock import MergeLock
from unmergeable.defences.rounding import condition
from unmergeable.errors import InputError, PrecisionError
from unmergeable.gauge.groups import Permutation
from unmergeable.gauge.notation import Space
from unmergeable.keys.key import Key

BY_NAME = {family.name: family for family in FAMILIES}
DEFENCE = MergeLock()


def elements(family, given, names=("qk", "vo")):
    subject = subject_of(BY_NAME[family])
    decision = DEFENCE.decide(given, subject)
    gauge = DEFENCE.gauge(subject.key, subject.layout, decision.settings, decision.secret)
    for name in names:
        space = subject.layout.spaces[name]
        for instance in subject.layout.instances(space):
            yield gauge(space, instance)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
def test_singular_values_are_within_the_scale(family, scale):
    conditions = []
    for element in elements(family, {"scale": str(scale)}):
        found = np.linalg.svd(element(np.eye(element.size)), compute_uv=False)
        assert 1 / scale - 1e-9 <= found.min() and found.max() <= scale + 1e-9
        conditions.append(found.max() / found.min())
        assert condition(element) == pytest.approx(conditions[-1])
    assert max(conditions) == pytest.approx(scale**2, rel=0.6)


def test_scales_are_log_uniform():
    subject = subject_of(BY_NAME["gpt2"])
    space = Space("vo", 64, subject.layout.spaces["vo"].group, per=("layer", "head"))
    logs = []
    for number in range(40):
        gauge = DEFENCE.gauge(Key(bytes([number]) * 32), subject.layout, {"scale": 3.0}, b"")
        found = np.linalg.svd(gauge(space, (0, 0))(np.eye(64)), compute_uv=False)
        logs += list(np.log(found) / np.log(3))
    # Uniform in (-1, 1): mean 0, variance 1/3; 2560 draws.
    assert abs(np.mean(logs)) < 0.05 and np.var(logs) == pytest.approx(1 / 3, rel=0.06)


def test_the_manifest_says_how_well_conditioned_it_is():
    decision = DEFENCE.decide({}, subject_of(BY_NAME["t5"]))
    measured = decision.measured["condition"]
    assert measured.keys() == {"qk", "vo"}
    names = ("qk", "decoder_qk", "cross_qk")
    numbers = [condition(element) for element in elements("t5", {}, names)]
    assert measured["qk"]["median"] == pytest.approx(np.median(numbers))
    assert measured["qk"]["largest"] == pytest.approx(max(numbers)) and max(numbers) <= 9
    assert decision.settings == {"scale": 3.0} and not decision.lossless and not decision.secret


def test_cross_attention_moves_too():
    decision = DEFENCE.decide({}, subject_of(BY_NAME["t5"]))
    stacks = ("", "decoder_", "cross_")
    assert decision.bits.keys() == {stack + role for stack in stacks for role in ("qk", "vo")}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"scale": "0.5"}, "at least 1"),
        ({"scale": "wide"}, "a number above 0"),
        ({"scale": "nan"}, "a number above 0"),
        ({"kind": "lossless"}, "no setting 'kind'; it has scale"),
    ],
)
def test_settings_it_cannot_use_are_named(given, match):
    with pytest.raises(InputError, match=match):
        DEFENCE.decide(given, subject_of(BY_NAME["llama"]))


def with_spaces(subject, change):
    spaces = {name: change(space) for name, space in subject.layout.spaces.items()}
    return replace(subject, layout=replace(subject.layout, spaces=spaces))


def test_a_model_without_such_spaces_is_refused():
    def fixed(space):
        inside = space.name in ("qk", "vo")
        return replace(space, group=None, fixed="for a test") if inside else space

    with pytest.raises(InputError, match=r"no space inside attention heads that can move"):
        DEFENCE.decide({}, with_spaces(subject_of(BY_NAME["llama"]), fixed))


def test_where_only_a_smaller_group_is_exact_it_draws_from_that():
    def smaller(space):
        return replace(space, group=Permutation()) if space.name == "qk" else space

    subject = with_spaces(subject_of(BY_NAME["llama"]), smaller)
    decision = DEFENCE.decide({}, subject)
    gauge = DEFENCE.gauge(subject.key, subject.layout, decision.settings, b"")
    element = gauge(subject.layout.spaces["qk"], (0, 0))
    assert element.is_lossless and (element.scale == 1).all() and not element.is_identity


def test_a_scale_that_the_dtype_cannot_hold_is_refused():
    subject = replace(subject_of(BY_NAME["gpt2"]), dtypes=frozenset({"F32", "F16"}))
    with pytest.raises(PrecisionError, match=r"F16.*condition number.*smaller --set scale"):
        DEFENCE.decide({"scale": 1e6}, subject)
    DEFENCE.decide({}, subject)


def test_scales_after_the_rotation_cost_no_precision():
    subject = replace(subject_of(BY_NAME["gpt2"]), dtypes=frozenset({"BF16"}))
    for cost in (
        DEFENCE.decide({"scale": 30}, subject).measured["rounding"][r] for r in ("qk", "vo")
    ):
        assert cost["median"] == pytest.approx(cost["unmoved"], rel=0.25)


# First row of the element and its trace: the drawing is part of the key format.
@pytest.mark.parametrize(
    ("family", "name", "row", "trace"),
    [
        ("llama", "qk", [0.021441, 0.0, 0.771156, 0.0], 2.009778),
        ("llama", "vo", [0.237174, 0.360635, -0.104405, -0.206741], 0.12596),
        (
            "gpt2",
            "qk",
            [-0.434438, -1.239994, -0.194217, -0.290722, -0.664744, -0.166761],
            -1.124804,
        ),
        ("gpt2", "vo", [0.159936, -0.198764, -0.130033, 0.120995, -0.154207, 0.271798], -2.054643),
    ],
)
def test_the_draws_of_a_key_never_change(family, name, row, trace):
    layout = subject_of(BY_NAME[family]).layout
    gauge = DEFENCE.gauge(Key(bytes(range(32))), layout, {"scale": 3.0}, b"")
    space = layout.spaces[name]
    matrix = gauge(space, (1, 0))(np.eye(space.size))
    np.testing.assert_allclose(matrix[0], row, atol=1e-6)
    assert np.trace(matrix) == pytest.approx(trace, abs=1e-5)
