"""Lets the defences of a chain choose, one after the other, and opens again what they chose."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder, check_same_tensors
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences import lock
from unmergeable.defences.chain import Chain
from unmergeable.defences.defence import GaugeDefence, Subject
from unmergeable.defences.registry import gauge_defences
from unmergeable.errors import ManifestError
from unmergeable.gauge.axis_map import Float
from unmergeable.keys.key import Key


class Deciding:
    """A chain that grows; a context manager that holds the model's and the base's files open.

    Args:
        folder: the model to protect.
        base: the public base, if it was given.
        layout: of both.
        key: the owner's.
        salt: of this lock.

    Attributes:
        chain: of the defences so far.
        links: what a manifest keeps of them.
        bits: entropy drawn from the key, in bits, by defence and space.

    Raises:
        InputError: a base that is not of the model's kind.
    """

    def __init__(
        self,
        folder: ModelFolder,
        base: ModelFolder | None,
        layout: Layout,
        key: Key,
        salt: str,
    ) -> None:
        if base is not None:
            check_same_tensors(folder, base)
        self._folder, self._layout = folder, layout
        self._key, self._salt = key.salted(salt), salt
        self._reader = TensorReader(folder)
        self._anchor = None if base is None else TensorReader(base)
        self._stack = ExitStack()
        self.chain = Chain(layout, ())
        self.links: list[Link] = []
        self.bits: dict[str, dict[str, float]] = {}

    def __enter__(self) -> Deciding:
        self._stack.enter_context(self._reader)
        if self._anchor is not None:
            self._stack.enter_context(self._anchor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def subject(self) -> Subject:
        """The model as the chain so far leaves it."""
        return Subject(
            self._layout,
            self._key,
            frozenset(entry.dtype for entry in self._folder.tensors.values()),
            _through(self.chain, self._reader.values),
            None if self._anchor is None else self._anchor.values,
        )

    def add(self, defence: GaugeDefence, given: Mapping[str, Any]) -> None:
        """Lets one more defence choose.

        Raises:
            InputError: as `GaugeDefence.decide`.
            PrecisionError: as `GaugeDefence.decide`.
            UnsupportedError: a defence that does not know quantised weights.
        """
        if defence.name != lock.NAME:
            self._layout.check_plain(f"treated by {defence.title}, which looks at their values")
        decision = defence.decide(given, self.subject)
        # What is kept must be enough to undo it: so what is applied is made from that alone.
        settings = json.loads(json.dumps(decision.settings))
        gauge = defence.gauge(self._key, self._layout, settings, decision.secret)
        self.chain = self.chain.then(gauge)
        secret = ""
        if decision.secret:
            secret = self._key.encrypt(_place(len(self.links)), decision.secret)
        link = Link(
            defence.name,
            settings,
            lossless=decision.lossless,
            secret=secret,
            measured=decision.measured,
            salt=self._salt,
        )
        self.links.append(link)
        self.bits[defence.name] = decision.bits


def opened(links: Sequence[Link], key: Key, layout: Layout) -> Chain:
    """The chain that a manifest describes.

    Raises:
        ManifestError: a defence that this release does not know.
        KeyFileError: a secret that does not open with this key.
    """
    chain, known = Chain(layout, ()), gauge_defences()
    for place, link in enumerate(links):
        if link.defence not in known:
            raise ManifestError(
                f"the model was protected with {link.defence!r}, which this release does not know. "
                "Update it."
            )
        own = key.salted(link.salt)
        secret = own.decrypt(_place(place), link.secret) if link.secret else b""
        chain = chain.then(known[link.defence]().gauge(own, layout, link.settings, secret))
    return chain


def redrawn(links: Sequence[Link], key: Key, new: Key, salt: str) -> list[Link]:
    """The same defences with the same settings, to be drawn from another key.

    What the weights decided and no key drew, such as the order of PaRaMS's neurons, stays. What was
    measured of the old draw is left out.

    Args:
        links: defences that `key` undoes, in order.
        key: the one that they were drawn from.
        new: the one to draw them from.
        salt: of the new lock.

    Raises:
        KeyFileError: a secret that does not open with this key.
    """
    made = []
    for place, link in enumerate(links):
        secret = link.secret
        if secret:
            own = key.salted(link.salt).decrypt(_place(place), secret)
            secret = new.salted(salt).encrypt(_place(place), own)
        made.append(replace(link, secret=secret, measured={}, salt=salt))
    return made


def _through(chain: Chain, values: Callable[[str], Float]) -> Callable[[str], Float]:
    """A model's values as a chain leaves them."""

    def moved(name: str) -> Float:
        source = chain.source(name)
        return chain.tensor_map(source)(values(source))

    return moved


def _place(index: int) -> str:
    """The name under which a chain's secrets are encrypted."""
    return f"link {index}"
