"""From a merge method and models in memory to the candidates that a search tries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.auditing.ensemble import Row, neighbours
from unmergeable.auditing.search import Candidate
from unmergeable.errors import InputError
from unmergeable.merging import mergekit_bridge
from unmergeable.merging.method import Corpus, Ingredients, Merged, State
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.offloaded_state import OffloadedState

if TYPE_CHECKING:
    import torch


# The packages that candidates are made by.
CODE = ("attacks", "merging", "gauge", "architectures", "models", "training")


class DroppedError(InputError):
    """A merge lacks tensors that its inputs have."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory with what it is known by.

    Attributes:
        state: its tensors.
        identity: a hash of its content, or of all that it was made from.
    """

    state: State
    identity: str


@dataclass(frozen=True, eq=False)
class Candidates:
    """What every merge of an audit shares.

    Attributes:
        base: the public base.
        peers: the thief's experts.
        layout: of all models.
        runner: runs models, for methods that need to.
        corpora: one per model, the protected one's first; empty where the audit has no inputs.
        inputs: what identifies the corpora.
        seed: of methods that draw.
    """

    base: Model
    peers: Sequence[Model]
    layout: Layout
    runner: ModelRunner
    corpora: Sequence[Corpus] = ()
    inputs: str = ""
    seed: int = 0

    def all(self, row: Row, subject: Model) -> Iterator[Candidate]:
        """All candidates of a method that merge a subject with the peers.

        Where a row has scales, each merge is made once, and its task vector scaled: it is let go
        with the last of these candidates.

        Raises:
            InputError: the method does not suit this number of models.
        """
        if row.own is not None:
            merges = self._own(row, subject)
        else:
            merges = self._mergekit_all(row, subject)
        if len(row.scales) == 1:
            yield from merges
            return
        for merge in merges:
            once = _Once(merge.make, self.base.state)
            yield from (self._scaled(merge, once, scale) for scale in row.scales)

    def again(self, row: Row, subject: Model, label: Mapping[str, Any]) -> Candidate:
        """The candidate of that label."""
        setting = {name: value for name, value in label.items() if name != "scale"}
        alike = self.all(replace(row, settings=(setting,)), subject)
        return next(candidate for candidate in alike if candidate.label == label)

    def around(self, row: Row, subject: Model) -> Callable[[Candidate], list[Candidate]] | None:
        """The neighbours of a candidate, for the methods whose coefficients are refined."""
        if not row.wide:
            return None
        method = mergekit_bridge.method_named(row.name)
        return lambda best: [
            self._mergekit(row, method, subject, setting) for setting in neighbours(best.label)
        ]

    def _mergekit_all(self, row: Row, subject: Model) -> Iterator[Candidate]:
        method = mergekit_bridge.method_named(row.name)
        if method.inputs == 2 and len(self.peers) > 1:
            raise InputError(f"{row.name} merges two models, and there are {1 + len(self.peers)}.")
        for setting in row.settings:
            yield self._mergekit(row, method, subject, setting)

    def _mergekit(
        self, row: Row, method: mergekit_bridge.Method, subject: Model, setting: Mapping[str, Any]
    ) -> Candidate:
        parameters = dict(setting)
        if "weight" in parameters:
            own, each = parameters["weight"]
            parameters["weight"] = [own, *([each] * len(self.peers))]
        for name in ("density", "gamma"):
            if name in parameters:
                parameters[name] = [parameters[name]] * (1 + len(self.peers))
        models = [subject, *self.peers]
        base: Model | None = self.base if method.base else None
        if method.inputs == 1:
            models = models[:1]
        elif method.inputs == 2 and method.base:  # the first of the two is what it calls the base
            base, *models = models
        about = {
            "merge": row.name,
            "parameters": parameters,
            "models": [model.identity for model in models],
            "base": None if base is None else base.identity,
            "seed": self.seed,
            "mergekit": version("mergekit"),
        }

        def make() -> Merged:
            merged = mergekit_bridge.merge_state_dicts(
                [model.state for model in models],
                row.name,
                base=None if base is None else base.state,
                parameters=parameters,
                seed=self.seed,
            )
            return _complete(row, Merged(merged), subject)

        label = {n: list(v) if isinstance(v, tuple) else v for n, v in setting.items()}
        return Candidate(label, about, make)  # as JSON will have it, when it is looked up

    def _own(self, row: Row, subject: Model) -> Iterator[Candidate]:
        """An own method, merged once per setting; its merged task vector is then scaled."""
        assert row.own is not None
        models = [subject, *self.peers]
        ingredients = Ingredients(
            [model.state for model in models],
            self.base.state,
            self.layout,
            self.runner,
            self.corpora,
            self.seed,
        )
        for setting in row.settings:
            if len(setting.get("order", models)) != len(models):
                continue  # an order of two models, and there are more

            def make(setting: Mapping[str, Any] = setting) -> Merged:
                assert row.own is not None
                return _complete(row, row.own(ingredients, **setting), subject)

            about = {
                "merge": row.name,
                "parameters": {**row.own.parameters, **setting},
                "models": [model.identity for model in models],
                "base": self.base.identity,
                "inputs": self.inputs if row.own.needs else "",
                "seed": self.seed,
                "code": code_digest(),
            }
            yield Candidate(dict(setting), about, make)

    @staticmethod
    def _scaled(merge: Candidate, once: _Once, scale: float) -> Candidate:
        """A merge with its task vector multiplied."""
        return Candidate(
            {**merge.label, "scale": scale},
            {**merge.about, "scale": scale},
            lambda: Merged(once.scaled(scale)),
        )


def _complete(row: Row, merged: Merged, subject: Model) -> Merged:
    """A merge that has every tensor of its inputs."""
    for state in (merged.state, *merged.by_model):
        if lost := sorted(subject.state.keys() - state.keys()):
            raise DroppedError(f"{row.name} dropped {len(lost)} tensors, such as {lost[0]!r}.")
    return merged


class _Once:
    """A merge made when it is first asked for, and its task vector scaled.

    It is offloaded in a file: in memory, it would be one more model beside each scaled one.
    """

    def __init__(self, make: Callable[[], Merged], base: State) -> None:
        self._make, self._base = make, base
        self._offloaded: OffloadedState | None = None

    def scaled(self, scale: float) -> State:
        """The merge with its task vector multiplied."""
        if self._offloaded is None:
            made = self._make().state
            self._offloaded = OffloadedState(made)
            if scale == 1.0:
                return made
            del made
        if scale == 1.0:
            return dict(self._offloaded)
        return {name: self._moved(name, scale) for name in self._offloaded}

    def _moved(self, name: str, scale: float) -> torch.Tensor:
        assert self._offloaded is not None
        tensor = self._offloaded[name]
        if not tensor.is_floating_point():
            return tensor
        base = self._base[name]
        return tensor.sub(base).mul_(scale).add_(base)


@cache
def code_digest() -> str:
    """Hash of the package's own code that makes candidates: a change of it stales their scores."""
    import unmergeable

    root = Path(unmergeable.__file__).parent
    hasher = hashlib.sha256()
    for package in CODE:
        for path in sorted((root / package).rglob("*.*")):
            if path.suffix in (".py", ".toml"):
                hasher.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return hasher.hexdigest()[:16]
