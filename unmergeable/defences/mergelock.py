"""MergeLock-style: random invertible matrices inside each attention head.

Reconstructed from the abstract of "Model Unmerging: Making Your Models Unmergeable for Secure
Model Sharing" (arXiv 2509.01548), public reviews of it, and the attack code of AGA; not from the
authors' code. Per head, or key-value head under grouped-query attention, one matrix A moves queries
and keys, one matrix B values and outputs; each is a product of a permutation, a scaling and a
random matrix. Not known, and chosen here: the random matrix is a rotation (Haar), scales are
log-uniform in [1/s, s], and under rotary positions A shrinks to one complex number per plane. A
permutation changes nothing in the law of such a product; it is drawn because the paper names it.
Scales come after the rotation, where rounding does not see them: on SmolLM2-135M in bfloat16 the
products of a head are off by 2.5e-3, and by 2.4e-3 without any lock
(`benchmarks/defence_rounding.py`).

What it claims (claimed, abstract): the function stays exactly; merging it "in most cases" degrades
performance by more than 95 %. The first is true up to one rounding of the weights.

Data needed: none. Architectures: the paper's are CLIP-ViT and Flan-T5; here every declared family,
cross-attention included. Changes in the folder: the values of attention's q, k, v and o (and their
biases), and the manifest. What undoes it: `align` (paired gauge-fixing), in seconds from the public
base; AGA (arXiv 2606.30360) by least squares per head, which loses more of the fine-tuning and
changes the function. What each method of `align` leaves of it: `benchmarks/align_methods.py
--lock mergelock`. FFN, embeddings and norms stay as they are, so that merge tools find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.defences.defence import Claim, Decision, FieldRow, GaugeDefence, Subject, Summary
from unmergeable.defences.roles import HEADS, spaces_for
from unmergeable.defences.rounding import TOLERANCE, check_rounding, conditions, rounding
from unmergeable.errors import InputError
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.groups import Kind, Linear, Rotary
from unmergeable.gauge.notation import Gauge, Space
from unmergeable.gauge.randomness import Randomness
from unmergeable.keys.key import Key
from unmergeable.settings import Number, Setting, read


class MergeLock(GaugeDefence):
    """See the module."""

    name = "mergelock"
    title = "MergeLock-style (reconstructed from the abstract and secondary sources)"
    paper = "arXiv 2509.01548, reconstructed from abstract, reviews and the attack's code"
    reconstructed = True
    order = 20
    summary = Summary(
        claims="merged models lose over 95 %",
        exact="exact up to rounding",
        needs="nothing",
        changes="attention weights and biases",
        undone_by="`align` (also `--method aga`)",
    )
    claims = (
        Claim(
            "arXiv 2509.01548 (abstract)",
            "degrades merged models by over 95 %",
            "over 95 % lost",
            "released",
        ),
        Claim(
            "arXiv 2606.30360 (a summary of it; ViT-B/32, task arithmetic)",
            "falls to anchor-guided alignment",
            "5.10 to 66.39 of 67.23 % accuracy",
            "attacked",
        ),
    )
    rows = (FieldRow("mergelock", "MergeLock-style", main=True, order=30),)
    settings: ClassVar[Mapping[str, Setting]] = {
        "scale": Number(
            "scales inside a head are drawn from [1/scale, scale], log-uniformly, which bounds the "
            "condition number by scale squared. A rotation alone moves the weights by 1.4 of their "
            "norm, so that a wider range buys nothing against merging, and makes quantising the "
            "released model harder.",
            3.0,
            above=True,
        ),
    }

    def decide(self, given: Mapping[str, Any], subject: Subject) -> Decision:
        """Checks the settings and that the dtype can hold the draw; see `GaugeDefence`.

        Raises:
            InputError: an unknown setting, a scale below 1, a model without movable heads.
            PrecisionError: a scale too wide for the model's dtype.
        """
        settings = read(self.settings, given, self.name)
        scale = settings["scale"]
        if scale < 1:
            raise InputError(f"scale={scale:g}: give a number of at least 1.")
        spaces = spaces_for(subject.layout, *HEADS)
        if not spaces:
            raise InputError(
                f"{subject.layout.family} {subject.layout.model_class} has no space inside "
                "attention heads that can move (qk, vo), and MergeLock moves nothing else."
            )
        gauge = self.gauge(subject.key, subject.layout, settings, b"")
        drawn = conditions(subject.layout, spaces, gauge)
        cost = rounding(subject, spaces, gauge)
        check_rounding(cost, drawn, TOLERANCE, "Use a smaller --set scale=..., or float32.")
        bits = {space.name: 0.0 for space in spaces}  # continuous; as for the general lock
        return Decision(settings, False, bits, b"", {"condition": drawn, "rounding": cost})

    def gauge(self, key: Key, layout: Layout, settings: Mapping[str, Any], secret: bytes) -> Gauge:
        """Draws from streams named "mergelock/SPACE/INDEX..."; fixed vectors are in the tests."""
        scale = float(settings["scale"])
        moved = {space.name for space in spaces_for(layout, *HEADS)}

        @lru_cache(maxsize=4096)
        def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
            if space.name not in moved:
                return AxisMap.identity(space.size or 0)
            name = "/".join(["mergelock", space.name, *map(str, instance)])
            return _draw(space, key.randomness(name), scale)

        return element


def _draw(space: Space, random: Randomness, scale: float) -> AxisMap:
    """One head's element; where only a smaller group is exact, an element of that."""
    size, group = space.size or 0, space.group
    if isinstance(group, Rotary):
        modulus = _log_uniform(random, size // 2, scale)
        return group.element(size, modulus * np.exp(2j * np.pi * random.uniform(size // 2)))
    if not isinstance(group, Linear):
        assert group is not None
        return group.draw(size, random, Kind(general=True))
    rotation = random.orthogonal(size)
    scaled = _log_uniform(random, size, scale)[:, None] * rotation
    return AxisMap.block(scaled[random.permutation(size)])


def _log_uniform(random: Randomness, size: int, scale: float) -> Float:
    return np.asarray(scale ** (2 * random.uniform(size) - 1), np.float64)
