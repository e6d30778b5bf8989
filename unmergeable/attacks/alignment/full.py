"""Our alignment: every space by the best element of its group, or the lossless one behind it."""

from __future__ import annotations

from unmergeable.attacks.alignment.method import Method


class Full(Method):
    """Fits every space by its whole group; see `gauge.fit`.

    Where a lossless element explains the tensors about as well as the best one, it is taken: an
    attacker knows that the default lock draws those (Kerckhoffs), and undoes it to the bit. What a
    fit moves, it moves on all tensors alike, so the model's function stays. Source: ours.
    """

    name = "full"
    order = 10
    sentence = "every space by the best element of its group, rotations and scales included"
    source = "ours"
