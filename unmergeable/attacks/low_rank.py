"""Low rank: keeps the largest singular directions of each matrix's task vector, or drops them.

Fine-tuning moves a matrix along few directions. A hostile component that is spread over many is cut
by keeping the top ones; one that is concentrated is cut by dropping them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.task_vector import changed, shared
from unmergeable.merging.method import State

if TYPE_CHECKING:
    import torch

RANKS = (4, 16, 64)


def low_rank(thief: Thief, released: State, ranks: tuple[int, ...] = RANKS) -> Iterator[Variant]:
    """Keeps, then drops, the top singular directions of every matrix; vectors stay.

    Args:
        thief: who does it.
        released: the aligned model.
        ranks: how many directions.
    """
    tops = {
        name: _top(released[name] - thief.base[name], max(ranks))
        for name in shared(thief.base, released)
        if thief.base[name].squeeze().ndim > 1
    }
    for dropped in (False, True):
        for rank in ranks:

            def cut(
                name: str,
                anchor: torch.Tensor,
                vector: torch.Tensor,
                rank: int = rank,
                dropped: bool = dropped,
            ) -> torch.Tensor | None:
                top = tops.get(name)
                if top is None or rank >= min(vector.flatten(1).shape):
                    return None
                kept = _project(vector, top[:, :rank])
                return vector - kept if dropped else kept

            label = f"{'without the' if dropped else 'only the'} top {rank} directions"
            yield from changed(label, thief.base, released, cut)


def _top(vector: torch.Tensor, rank: int) -> torch.Tensor | None:
    """The top singular vectors of a matrix on its shorter side: shape (side, rank).

    From the Gram matrix of that side: all that is wanted is the span of the large ones, and an
    embedding table is far too tall for a singular value decomposition.
    """
    import torch

    matrix = vector.flatten(1)
    if not torch.isfinite(matrix.sum()):
        return None
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    scale = gram.diagonal().max()
    if not 0 < scale < torch.inf:
        return None
    try:
        vectors: torch.Tensor = torch.linalg.eigh(gram / scale).eigenvectors
    except RuntimeError:  # rubbish that does not converge
        return None
    return vectors.flip(1)[:, :rank].clone()


def _project(vector: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    matrix = vector.flatten(1)
    if matrix.shape[0] <= matrix.shape[1]:
        return (top @ (top.T @ matrix)).reshape(vector.shape)
    return ((matrix @ top) @ top.T).reshape(vector.shape)


LOW_RANK = Attack(
    "low_rank",
    "low rank",
    "Keeps the largest singular directions of the task vector, or drops them.",
    "data-free",
    before=low_rank,
)
