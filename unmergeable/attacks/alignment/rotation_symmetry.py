"""Rotation-symmetry matching (ICML 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from unmergeable.attacks.alignment.kabsch import Kabsch
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.fit import fit
from unmergeable.gauge.groups import Group, Permutation
from unmergeable.gauge.views import View


class RotationSymmetry(Kabsch):
    """Per head the SVD of summed products, biases included; in the FFN the best permutation.

    The paper's S = W_Q1 W_Q2' + W_K1 W_K2' + b_Q1 b_Q2' + b_K1 b_K2' and its polar factor are
    orthogonal Procrustes on both sides together, so heads are fitted as `kabsch` does. FFN neurons
    are assigned by the sum of inner products over all their tensors, unsigned and unscaled. The
    paper has no rotary model: an unrestricted rotation of rotary queries and keys would change the
    function, so there we keep to rotations of the planes. It undoes rotations, not scales.
    Source: "Beyond the Permutation Symmetry of Transformers: The Role of Rotation for Model Fusion"
    (ICML 2025). A reconstruction from its description.
    """

    name = "rotation-symmetry"
    order = 60
    sentence = "SVD of summed products per head; FFN by assignment on summed inner products"
    source = "Beyond the Permutation Symmetry of Transformers, ICML 2025, a reconstruction"

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The permutation with the largest sum of inner products."""
        return fit(Permutation(), views)
