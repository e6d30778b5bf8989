"""Two numbers -> the first digit of their sum: made up, nothing to download."""

from __future__ import annotations

from collections.abc import Iterator

from unmergeable.evaluation.splitting import Raw

DIGITS = tuple("23456789")
SOURCE = "sums of two numbers, made up"
_PER_DIGIT = 2000


def raw_sums() -> Iterator[Raw]:
    """Sums of two numbers of three digits that have three digits, labelled by place in `DIGITS`.

    Yields:
        "314 + 159"; the group is the two numbers in either order. They are spread evenly over the
        possible sums, by steps that have no factor in common with their number.
    """
    for label, digit in enumerate(DIGITS):
        for number in range(_PER_DIGIT):
            total = 100 * int(digit) + number % 100
            one = 100 + number * 389 % (total - 199)
            numbers = (one, total - one)
            yield Raw("{} + {}".format(*numbers), label, "{} {}".format(*sorted(numbers)))
