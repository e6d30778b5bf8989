"""Singular values, directions and orthogonal factors, against numpy's kind."""

import math

import pytest
import torch

from tests.merging.small import (
    close,
    drawn,
)
from unmergeable.merging.svd import leading, orthogonalised, svd


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("size", [1.0, 1e30, 1e-30])
def test_singular_values_of_any_shape_and_size(shape, size):
    matrix = drawn(*shape) * size
    u, s, vh = svd(matrix)
    close((u * s) @ vh / size, matrix / size)
    top = leading(matrix, 3)
    close(top[1] / size, s[:3] / size, 1e-4)
    close((top[0] * top[1]) @ top[2] / size, (u[:, :3] * s[:3]) @ vh[:3] / size, 1e-4)
    close(top[0].T @ top[0], torch.eye(3))


def test_directions_that_are_noise_are_left_out():
    matrix = drawn(8, 2) @ drawn(2, 6, seed=1)
    assert len(svd(matrix)[1]) == len(leading(matrix, 5)[1]) == 2


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_orthogonalising_is_procrustes(shape):
    columns = drawn(*shape)
    u, _, vh = torch.linalg.svd(columns, full_matrices=False)
    close(orthogonalised(columns), u @ vh)
    twice = torch.cat([torch.eye(4)[:, :1]] * 2, 1)
    close(orthogonalised(twice), twice / math.sqrt(2))
