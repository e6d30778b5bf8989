"""Ridge regression of a module: the matrix that says what another's says, on inputs of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.merging.method import State

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class RidgeFit:
    """Ridge regression of one module's output on its input, towards its present weights.

    Attributes:
        name: of the module's weight.
        bias_name: of its bias.
        transposed: whether the weight is stored (in, out).
        weight: the present one, shape (in, out).
        bias: the present one, if there is one.
        ridge: penalty on the distance to these, relative to the mean square of the inputs.
        flops: floating-point operations so far.
    """

    name: str
    bias_name: str
    transposed: bool
    weight: torch.Tensor
    bias: torch.Tensor | None
    ridge: float
    gram: Any = None
    product: Any = None
    flops: float = 0.0

    @classmethod
    def of(cls, state: State, name: str, out: int, ridge: float) -> RidgeFit:
        """For the module of a weight whose axis `out` writes."""
        bias_name = f"{name.rpartition('.')[0]}.bias"
        weight = state[name] if out == 1 else state[name].T
        return cls(name, bias_name, out == 1, weight, state.get(bias_name), ridge)

    def add(self, x: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor | None) -> None:
        """Takes in the inputs of a batch, with the outputs they should have."""
        import torch

        x = x.float()
        rest = wanted - x @ self.weight.to(x.device)
        if self.bias is not None:
            rest = rest - self.bias.to(x.device)
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
        rows, gaps = (t[real] if real is not None else t.flatten(0, -2) for t in (x, rest))
        # Sums over one batch in float32, over all of them in float64: half the time, and as good.
        gram, product = (rows.T @ rows).double(), (rows.T @ gaps).double()
        self.gram = gram if self.gram is None else self.gram + gram
        self.product = product if self.product is None else self.product + product
        self.flops += 2.0 * len(rows) * rows.shape[1] * (rows.shape[1] + gaps.shape[1])

    def solved(self) -> dict[str, torch.Tensor] | None:
        """The new weights; None where the inputs are rubbish."""
        import torch

        size = len(self.gram)
        self.flops += size**3 / 3
        mean = self.gram.diagonal().mean()
        if not 0 < float(mean) < torch.inf:
            return None
        self.gram.diagonal().add_(self.ridge * mean)
        factor, failed = torch.linalg.cholesky_ex(self.gram)
        if failed:
            return None
        change = torch.cholesky_solve(self.product, factor).float().to(self.weight.device)
        width = len(self.weight)
        weight = self.weight + change[:width]
        new = {self.name: weight if self.transposed else weight.T.contiguous()}
        if self.bias is not None:
            new[self.bias_name] = self.bias + change[width]
        return new
