"""Singular value decompositions of task matrices, in float32 and safe for any magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Singular values below this share of the largest are rounding noise of float32: their directions
# are arbitrary.
NOISE = 1e-6


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, S and Vᵀ of a matrix, without directions that are noise.

    Returns:
        float32, shapes (m, r), (r,) and (r, n), where r is the numerical rank.
    """
    import torch

    scale = _scale(matrix)
    u, s, vh = torch.linalg.svd(matrix / scale, full_matrices=False)
    rank = int((s > NOISE * s[0]).sum())
    return u[:, :rank], s[:rank] * scale, vh[:rank]


def leading(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest `count` directions of `svd`, twice to five times as fast.

    They come from the eigenvectors of the smaller Gram matrix, and the other side from projecting
    on them, so that u @ diag(s) @ vh is the matrix' projection whatever the eigenvectors' error. It
    is larger among directions with singular values below about 1e-3 of the largest.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        v, s, uh = leading(matrix.T, count)
        return uh.T, s, v.T
    scale = _scale(matrix)
    scaled = matrix / scale
    u = torch.linalg.eigh(scaled @ scaled.T)[1].flip(1)[:, :count]
    rest = u.T @ scaled
    s = rest.norm(dim=1)
    kept = s > NOISE * s[0]
    return u[:, kept], s[kept] * scale, rest[kept] / s[kept, None]


def orthogonalised(columns: torch.Tensor) -> torch.Tensor:
    """The matrix with orthonormal columns (or rows) that is nearest: orthogonal Procrustes.

    Columns that depend on each other have no such matrix that is unique. Then the part that is
    unique is given: two equal columns become twice the same one, of length 1/√2.
    """
    return polar(columns, 100 * NOISE)[0]


def polar(matrix: torch.Tensor, noise: float = NOISE) -> tuple[torch.Tensor, float]:
    """U Vᵀ and the sum of the singular values, of directions above a share of the largest.

    Through the smaller Gram matrix in float64, where squaring costs nothing that float32 had.
    """
    import torch

    if matrix.shape[1] > matrix.shape[0]:
        factor, total = polar(matrix.T, noise)
        return factor.T, total
    double = matrix.double()
    values, vectors = torch.linalg.eigh(double.T @ double)
    kept = values > noise**2 * values[-1]
    vectors, roots = vectors[:, kept], values[kept].sqrt()
    root = (vectors / roots) @ vectors.T
    return (double @ root).float(), float(roots.sum())


def _scale(matrix: torch.Tensor) -> float:
    """Brings numbers near 1, as squares of very large or small ones leave float32."""
    return float(matrix.abs().max()) or 1.0
