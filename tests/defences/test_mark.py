"""The mark's signs, and how they are written in each format."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from unmergeable.checkpoint.header import TensorEntry
from unmergeable.defences.mark import Mark
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))
NAME = "model.layers.0.mlp.up_proj.weight"
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}


def mark(scale=1e-3, licensee="alice", release="r"):
    return Mark.of(KEY, release, licensee, {NAME: scale})


def entry(dtype, count, name=NAME):
    size = count * np.dtype(NUMBERS[dtype]).itemsize
    return TensorEntry(name, dtype, (1, count), 0, size)


def test_a_key_makes_the_same_signs_for_ever():
    first = mark().signs(NAME, 32)
    assert first.tolist() == mark().signs(NAME, 64)[:32].tolist()
    packed = np.packbits((mark().signs(NAME, 64) < 0), bitorder="little").tobytes().hex()
    assert packed == "1417ee2b4bb767d3"
    assert mark().commitment == "3da4969a83b96550fb02c4b12f23239bd0f3260cb9e6729d0100c6e3adfd3f7c"


@pytest.mark.parametrize("part", ["secret", "release", "licensee"])
def test_a_commitment_holds_to_secret_release_and_name(part):
    other = {"secret": bytes(32), "release": "s", "licensee": "bob"}[part]
    assert replace(mark(), **{part: other}).commitment != mark().commitment


@pytest.mark.parametrize("other", [{"licensee": ""}, {"licensee": "bob"}, {"release": "s"}])
def test_other_copies_have_other_signs(other):
    ours, theirs = (m.signs(NAME, 100_000).astype(int) for m in (mark(), mark(**other)))
    assert abs(ours @ theirs) < 5 * np.sqrt(100_000) and abs(ours.sum()) < 5 * np.sqrt(100_000)
    assert mark().commitment != mark(**other).commitment


@pytest.mark.parametrize("dtype", ["F64", "F32"])
def test_wide_formats_hold_the_mark_as_it_is(dtype):
    values = np.random.default_rng(0).normal(size=1000).astype(NUMBERS[dtype])
    out = mark().add(entry(dtype, 1000), values.view(np.uint8)).view(NUMBERS[dtype])
    wanted = values.astype(float) + 1e-3 * mark().signs(NAME, 1000)
    assert np.array_equal(out, wanted.astype(NUMBERS[dtype]))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("scale", [1e-5, 1e-3, 3e-2])
def test_narrow_formats_move_by_single_steps_whose_mean_is_the_mark(dtype, scale):
    count = 200_000
    values = np.random.default_rng(0).normal(size=count).astype(NUMBERS[dtype])
    made = mark(scale).add(entry(dtype, count), values.view(np.uint8)).view(NUMBERS[dtype])
    moved = made.astype(float) - values.astype(float)
    signs = mark().signs(NAME, count)
    mean, error = (moved * signs).mean(), moved.std() / np.sqrt(count)
    assert mean == pytest.approx(scale, abs=5 * error)
    wanted = values.astype(float) + scale * signs
    step = np.abs(np.spacing(np.abs(wanted).astype(NUMBERS[dtype]))).astype(float)
    assert (np.abs(made.astype(float) - wanted) <= step).all()
    again = mark(scale).add(entry(dtype, count), values.view(np.uint8))
    assert np.array_equal(again, made.view(np.uint8))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_is_not_finite_and_what_is_largest_stays(dtype):
    largest = 65504.0 if dtype == "F16" else float(ml_dtypes.finfo(NUMBERS[dtype]).max)
    values = np.array([np.inf, -np.inf, np.nan, largest, -largest, 0.0]).astype(NUMBERS[dtype])
    made = mark(1e-4).add(entry(dtype, 6), values.view(np.uint8)).view(NUMBERS[dtype])
    assert np.array_equal(made[:5], values[:5], equal_nan=True)
    assert abs(float(made[5])) <= 2e-4


def test_tensors_without_a_scale_are_as_they_were():
    data = np.arange(16, dtype=np.uint8)
    assert mark().add(entry("F32", 4, "model.norm.weight"), data) is data
