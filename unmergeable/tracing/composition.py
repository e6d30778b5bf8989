"""Of which known models a suspect may be made: a lead, and no proof.

The suspect's task vector as a sum of known ones with weights of zero or more, by least squares, in
the spirit of UNMERGE. Models that were not given, or that resemble each other, mislead it.
"""

from __future__ import annotations

import numpy as np

from unmergeable.gauge.floats import Float
from unmergeable.tracing.comparison import Matrix


class Composition:
    """Collects what least squares need, matrix by matrix.

    Args:
        count: of known models, the expert first.
    """

    def __init__(self, count: int) -> None:
        self._gram, self._product = np.zeros((count, count)), np.zeros(count)
        self._square = 0.0

    def add(self, matrix: Matrix) -> None:
        """Takes in one matrix; a model that lacks it adds nothing to it."""
        rows = {0: matrix.expert, **{n + 1: one for n, one in matrix.siblings.items()}}
        vectors = np.array(list(rows.values()))
        at = np.array(list(rows))
        self._gram[np.ix_(at, at)] += vectors @ vectors.T
        self._product[at] += vectors @ matrix.difference
        self._square += float(np.dot(matrix.difference, matrix.difference))

    def result(self) -> tuple[Float, float]:
        """The weights, shape (count,), and the share of the suspect's task vector they explain."""
        from scipy.optimize import nnls

        values, vectors = np.linalg.eigh(self._gram)
        kept = values > 1e-12 * max(values[-1], 1e-300)
        roots = np.sqrt(values[kept])
        goal = vectors[:, kept].T @ self._product / roots
        weights = nnls((vectors[:, kept] * roots).T, goal)[0]
        explained = 2 * weights @ self._product - weights @ self._gram @ weights
        return weights, float(explained / self._square) if self._square else 0.0
