"""Channels of convolutions over time, gates, and norms that differ from their model's others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.architectures.moving import scene, shapes
from unmergeable.architectures import declaration
from unmergeable.architectures.norms import norms_of
from unmergeable.architectures.score_norms import balances_of, rows_of


def norms(name):
    stage = scene(name)
    return {norm.gain: norm for norm in norms_of(stage.layout, shapes(stage.state))}


@pytest.mark.parametrize(
    ("name", "kernel", "channels", "rows"),
    [
        ("qwen3-next", "model.layers.1.linear_attn.conv1d.weight", 72, 102),  # and gates
        ("qwen3.5-text", "model.layers.1.linear_attn.conv1d.weight", 72, 72),
        ("olmo-hybrid", "model.layers.1.linear_attn.k_conv1d.weight", 30, 30),
        ("mamba2", "backbone.layers.0.mixer.conv1d.weight", 54, 84),  # and gates and time steps
    ],
)
def test_a_kernel_meets_each_of_its_channels_once(name, kernel, channels, rows):
    norm = norms(name)[kernel]
    assert (norm.size, norm.taps) == (channels, 4)
    for touch in norm.readers:
        assert len(touch.places) == rows and touch.axis == 0
        assert sorted(touch.places[touch.places >= 0]) == list(range(channels))


def test_a_fused_projection_has_its_channels_head_by_head():
    """Queries and keys of seven, values of two times five for each of three heads, then gates."""
    norm = norms("qwen3-next")["model.layers.1.linear_attn.conv1d.weight"]
    first = norm.readers[0].places[:34]
    assert list(first[:7]) == list(range(7))
    assert list(first[7:14]) == list(range(21, 28))
    assert list(first[14:24]) == list(range(42, 52))
    assert (first[24:] == -1).all()


def test_a_gain_that_all_heads_share_meets_the_order_of_what_reads_it():
    norm = norms("qwen3.5-text")["model.layers.1.linear_attn.norm.weight"]
    (touch,) = norm.readers
    assert touch.name.endswith("out_proj.weight")
    np.testing.assert_array_equal(touch.places, np.tile(np.arange(5), 6))


def test_a_table_of_offsets_stands_over_the_one_of_all_norms():
    found = norms("qwen3-next")
    assert found["model.layers.1.linear_attn.norm.weight"].offset == 0
    assert found["model.layers.1.input_layernorm.weight"].offset == 1
    assert {rule.offset for rule in declaration.load("qwen3_5_text").score_norms.values()} == {1}


def test_rows_of_a_gate_beside_the_queries_are_behind_no_norm():
    stage = scene("qwen3.5-text")
    (rows,) = (
        rows
        for rows in rows_of(stage.layout, shapes(stage.state))
        if rows.matrix.name.endswith("q_proj.weight")
    )
    scales, signs = (x.reshape(6, 16) for x in (rows.matrix.scales, rows.signs))
    np.testing.assert_array_equal(scales[:, :8], np.arange(6)[:, None] * np.ones(8))
    assert rows.norms == 6 and (scales[:, 8:] >= 6).all()
    assert (signs[:, :8] < rows.flips).all() and (signs[:, 8:] >= rows.flips).all()


def test_without_positions_each_position_of_a_key_has_a_scale_of_its_own():
    stage = scene("olmo-hybrid")
    (balance,) = balances_of(stage.layout, shapes(stage.state))
    assert balance.size == 12  # three heads of four; two planes each, where positions turn them


def test_a_norm_may_stand_in_layers_of_one_kind_alone():
    name = "model.layers.{}.feedforward_layer_norm.weight"
    found = norms("olmo-hybrid")
    assert name.format(0) not in found  # behind attention
    norm = found[name.format(1)]
    readers = {touch.name.split("mlp.")[1] for touch in norm.readers}
    assert readers == {"gate_proj.weight", "up_proj.weight"}
