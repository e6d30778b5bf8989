"""A partial function that equals another one of the same making, so that it can be a key.

Those of `functools` equal only themselves. A worker that is sent a suite again would take it for
a new one, and build again all that it keeps by suite.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

Made = TypeVar("Made")


class Partial(partial[Made]):
    """A `functools.partial`, equal to those of equal function and arguments; ours."""

    def __eq__(self, other: object) -> bool:
        """Whether the other one calls the same function with the same arguments."""
        if not isinstance(other, Partial):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        """As equality has it."""
        return hash(self._parts())

    def _parts(self) -> tuple[object, ...]:
        return self.func, self.args, tuple(sorted(self.keywords.items()))
