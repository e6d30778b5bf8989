from dataclasses import replace

import numpy as np

from tests.gauge.strategies import SPACES
from unmergeable.gauge.axis_blocks import blocks
from unmergeable.gauge.notation import parse


def taken_apart(text, shape):
    tensor = np.arange(np.prod(shape), dtype=float).reshape(shape)
    return tensor, list(blocks(parse(text), SPACES, tensor))


def test_a_product_becomes_one_dimension_per_space():
    tensor, (block,) = taken_apart("(head query vo*) wide", (24, 5))
    assert block.names() == ["head", "query", "vo", "wide"]
    assert [atom.side for atom in block.atoms] == ["write", "write", "read", "write"]
    np.testing.assert_array_equal(block.values, tensor.reshape(3, 2, 4, 5))


def test_a_concatenation_becomes_several_blocks():
    tensor, found = taken_apart("wide* [(head qk) (head vo)]", (5, 24))
    assert [block.names() for block in found] == [["wide", "head", "qk"], ["wide", "head", "vo"]]
    np.testing.assert_array_equal(found[0].values, tensor[:, :12].reshape(5, 3, 4))
    np.testing.assert_array_equal(found[1].values, tensor[:, 12:].reshape(5, 3, 4))


def test_a_concatenation_inside_a_product_is_interleaved():
    tensor, found = taken_apart("(head [qk vo]) wide", (24, 5))
    nested = tensor.reshape(3, 2, 4, 5)
    np.testing.assert_array_equal(found[0].values, nested[:, 0])
    np.testing.assert_array_equal(found[1].values, nested[:, 1])


def test_slices_and_rows():
    tensor, (block,) = taken_apart("(head vo) wide", (12, 5))
    one = block.at("head", 2)
    assert one.names() == ["vo", "wide"]
    np.testing.assert_array_equal(one.values, tensor[8:])
    np.testing.assert_array_equal(one.rows("wide"), tensor[8:].T)
    np.testing.assert_array_equal(block.rows("vo", "head")[1, 2], tensor[9])


def test_a_part_of_no_positions_is_left_out():
    spaces = {**SPACES, "rest": replace(SPACES["vo"], name="rest", size=0)}
    tensor = np.arange(60.0).reshape(12, 5)
    (block,) = blocks(parse("(head [vo rest]) wide"), spaces, tensor)
    assert block.names() == ["head", "vo", "wide"]
    np.testing.assert_array_equal(block.values, tensor.reshape(3, 4, 5))
