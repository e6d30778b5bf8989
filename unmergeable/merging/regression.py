"""Least squares over several models' inputs: the linear map that answers most like each on its own.

RegMean and LOT-Merging both come down to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Added to the diagonal after each input has been scaled to unit variance: enough to make the
# solution unique where few texts leave directions without any input, and the noise of float32 sums
# harmless.
RIDGE = 1e-6


class Fit:
    """Minimises Σ_i ‖(W − W_i) X_i‖² over W, model after model.

    In directions that no input has, W is 0: give it differences from what should stay there.
    """

    def __init__(self) -> None:
        self._left: torch.Tensor | None = None
        self._right: torch.Tensor | None = None
        self._unit = 1.0

    def add(self, gram: torch.Tensor, weight: torch.Tensor) -> None:
        """Adds a model.

        Args:
            gram: its X_i X_iᵀ, shape (in, in).
            weight: its W_i, shape (out, in).
        """
        if self._left is None or self._right is None:
            # a locked model's squares may be huge, and their products leave float32
            self._unit = float(gram.diagonal().max()) or 1.0
            self._right = gram / self._unit
            self._left = weight @ self._right
        else:
            self._left += weight @ (gram / self._unit)
            self._right += gram / self._unit

    def solve(self) -> torch.Tensor:
        """W, float32, shape (out, in)."""
        import torch

        assert self._left is not None and self._right is not None
        gram, size = self._right.double(), len(self._right)
        scale = gram.diagonal().clamp_min(0).sqrt()
        scale[scale == 0] = 1  # an input that is never on
        gram = gram / scale / scale[:, None]
        left = self._left.double() / scale
        ridge = RIDGE
        while True:
            factor, failed = torch.linalg.cholesky_ex(
                gram + ridge * torch.eye(size, dtype=gram.dtype, device=gram.device)
            )
            if not failed or ridge > 1:
                break
            ridge *= 10  # float32 sums of huge numbers can leave it indefinite
        return (torch.cholesky_solve(left.T, factor).T / scale).float()
