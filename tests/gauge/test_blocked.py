"""What blocks that share a scale leave of a group: found from positions, drawn, and counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.blocked import Run, blocked
from unmergeable.gauge.groups import GROUPS, Kind
from unmergeable.gauge.notation import Blocks, Space, parse
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))
KIND = Kind(scales=False)


def spaces(group="signed permutation", inner="signed permutation", heads=6, width=4):
    """A stream of 22 positions, and heads with a part of four and a part of `width`."""
    return {
        space.name: space
        for space in (
            Space("wide", 22, GROUPS[group]),
            Space("head", heads, GROUPS["permutation"]),
            Space("nope", 4, GROUPS["linear"], per=("head",)),
            Space("qk", width, GROUPS[inner], per=()),
        )
    }


def group_of(name, text, block, table):
    (axis,) = parse(text)
    return blocked(table[name], table, [Run(axis, axis.size(table), block)])


def order(group, size, times=400):
    """The sets of positions that each position comes from, over many draws."""
    seen = [set() for _ in range(size)]
    for i in range(times):
        for here, there in enumerate(group.draw(size, KEY.randomness(str(i)), KIND).source):
            seen[here].add(int(there))
    return seen


def test_a_stream_moves_inside_blocks_and_block_by_block():
    group = group_of("wide", "wide*", 4, spaces())
    seen = order(group, 22)
    # Five whole blocks of four, and two positions left over, which stay among themselves.
    assert all(places == set(range(20)) for places in seen[:20])
    assert all(places == {20, 21} for places in seen[20:])
    want = math.log2(math.factorial(5)) + 5 * math.log2(24) + 1 + 22
    assert group.bits(22, KIND) == pytest.approx(want)


def test_heads_that_fill_a_block_move_freely_and_others_by_blocks():
    table = spaces(width=4)
    whole = group_of("head", "(head [nope qk])", 8, table)
    assert whole.bits(6, KIND) == pytest.approx(math.log2(720))
    two = group_of("head", "(head [nope qk])", 16, table)  # two heads to a block
    assert two.bits(6, KIND) == pytest.approx(math.log2(6) + 3)
    assert order(two, 6)[0] == set(range(6))
    assert group_of("nope", "(head [nope qk])", 8, table).bits(4, KIND) == pytest.approx(
        math.log2(24) + 4
    )


def test_heads_that_blocks_cut_through_move_in_pairs_as_they_are():
    table = spaces(width=2)  # heads of six in blocks of four: the second block has two heads
    group = group_of("head", "(head [nope qk])", 4, table)
    seen = order(group, 6)
    assert [sorted(places) for places in seen[:2]] == [[0, 2, 4], [1, 3, 5]]
    assert group.bits(6, KIND) == pytest.approx(math.log2(6))
    # Some head has its part in two blocks, so that no head's halves may mix.
    table["nope"] = Space("nope", 4, GROUPS["linear"])
    assert group_of("nope", "(head [nope qk])", 4, table).bits(4, KIND) == pytest.approx(2 + 4)


@pytest.mark.parametrize(
    ("name", "block", "bits"),
    [
        ("rotary half", 8, 8.0),  # quarter turns: both parts of every plane are in one block
        ("rotary half", 4, 4.0),  # signs: parts i and i + 4 are not
        ("rotary interleaved", 2, 8.0),
        ("rotary interleaved turns", 4, 8.0),
        ("rotary half quarter turns", 4, 4.0),
        ("rotary half signs", 8, 4.0),
    ],
)
def test_planes_turn_as_far_as_blocks_let_them(name, block, bits):
    table = spaces(inner=name, width=8)
    group = group_of("qk", "(head qk)", block, table)
    assert group.bits(8, KIND) == bits
    drawn = {group.draw(8, KEY.randomness(str(i)), KIND).source.tobytes() for i in range(50)}
    assert (len(drawn) == 1) == (bits == 4.0)


def test_several_axes_leave_what_each_of_them_leaves():
    table = spaces()
    (axis,) = parse("wide")
    one = blocked(table["wide"], table, [Run(axis, 22, 4)])
    both = blocked(table["wide"], table, [Run(axis, 22, 4), Run(axis, 22, 6)])
    assert both.bits(22, KIND) < one.bits(22, KIND)
    for i in range(50):
        source = both.draw(22, KEY.randomness(str(i)), KIND).source
        for block in (4, 6):
            drawn = Blocks(axis, block).map(table, lambda *_, s=source: AxisMap.monomial(s), {})
            assert sorted(drawn.source) == list(range(-(-22 // block)))


def test_an_axis_without_blocks_constrains_nothing():
    table = spaces()
    assert group_of("wide", "wide", 1, table) is None
    assert group_of("wide", "(head qk)", 4, table) is None


def test_an_element_that_tears_blocks_apart_is_refused():
    (axis,) = parse("wide")
    table, order_of = spaces(), np.arange(22)
    order_of[[0, 4]] = 4, 0
    for element in (AxisMap.monomial(order_of), AxisMap.monomial(np.roll(np.arange(22), 4))):
        with pytest.raises(UnsupportedError, match="share a scale, 4 at a time"):
            Blocks(axis, 4).map(table, lambda *_, e=element: e, {})
    with pytest.raises(UnsupportedError, match="share a scale, 22 at a time"):
        Blocks(axis, 22).map(table, lambda *_: AxisMap.block(2 * np.eye(22)), {})


def test_nothing_that_rounds_is_drawn():
    with pytest.raises(UnsupportedError, match="moved but not rotated"):
        group_of("wide", "wide", 4, spaces()).draw(22, KEY.randomness("x"), Kind(general=True))


def test_draws_are_those_of_the_key_format():
    """Fixed: a change here would leave locked folders that no key opens."""
    group = group_of("wide", "wide", 4, spaces())
    element = group.draw(22, KEY.randomness("fixed"), KIND)
    assert element.source.tolist() == FIXED_SOURCE
    assert np.flatnonzero(element.scale < 0).tolist() == FIXED_SIGNS


FIXED_SOURCE = [9, 10, 11, 8, 7, 6, 5, 4, 18, 16, 17, 19, 14, 15, 13, 12, 1, 3, 0, 2, 21, 20]
FIXED_SIGNS = [2, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 21]
