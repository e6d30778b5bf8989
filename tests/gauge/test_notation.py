import numpy as np
import pytest
from hypothesis import given

from tests.gauge.strategies import AXES, SPACES, axes, gauge, kinds, matrix, seeds
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.notation import Space, parse


def dense(text, draw, index=()):
    """The matrix of an axis, built naively from its written form."""
    (axis,) = parse(text)
    return _dense(axis, draw, dict(index))


def _dense(axis, draw, index):
    if hasattr(axis, "parts"):
        blocks = [_dense(part, draw, index) for part in axis.parts]
        whole = np.zeros((sum(map(len, blocks)),) * 2)
        start = 0
        for block in blocks:
            whole[start : start + len(block), start : start + len(block)] = block
            start += len(block)
        return whole
    if hasattr(axis, "outer"):
        outer = _dense(axis.outer, draw, index)
        inner = [
            _dense(axis.inner, draw, {**index, axis.outer.name: old}) for old in range(len(outer))
        ]
        return np.block([[outer[new, old] * inner[old] for old in range(len(outer))]
                         for new in range(len(outer))])  # fmt: skip
    space = SPACES[axis.name]
    g = matrix(draw(space, tuple(index[name] for name in space.per)))
    return {"write": g, "read": np.linalg.inv(g).T, "order": (g != 0).astype(float)}[axis.side]


@given(axes, seeds, kinds)
def test_every_axis_is_the_matrix_its_form_says(text, seed, kind):
    if "|" in text and kind.general:
        kind = Kind()
    draw = gauge(seed, kind)
    (axis,) = parse(text)
    assert axis.size(SPACES) == len(dense(text, draw))
    np.testing.assert_allclose(matrix(axis.map(SPACES, draw, {})), dense(text, draw), atol=1e-12)


@pytest.mark.parametrize("text", AXES)
def test_axes_print_as_they_are_written(text):
    (axis,) = parse(text)
    assert str(axis) == text


@pytest.mark.parametrize(
    "text", ["", "(a", "a)", "(a]", "(a)", "((a b) c)", "a-b", "|a", "a**", "[a", "a ? b"]
)
def test_what_is_not_the_language_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_an_outer_space_that_mixes_is_refused():
    (axis,) = parse("(vo fixed)")
    with pytest.raises(ValueError, match="cannot be mixed"):
        axis.map(SPACES, gauge(0, Kind(general=True)), {"head": 0})


def test_sizes_of_any_length_stay_open():
    spaces = {"label": Space("label", None, None, "free"), **SPACES}
    assert parse("label")[0].size(spaces) is None
    assert parse("(head label)")[0].size(spaces) is None
    assert parse("[wide label]")[0].size(spaces) is None
    assert parse("(head [qk vo])")[0].size(spaces) == 24
