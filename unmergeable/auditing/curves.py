"""What the report draws besides the matrix: the straight line to the model, and where it moved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unmergeable.attacks.parts import place
from unmergeable.auditing.audit_inputs import AuditInputs
from unmergeable.auditing.cells import FULL
from unmergeable.auditing.facts import ALIGNED_CURVE, OPEN_CURVE
from unmergeable.auditing.grid import Start
from unmergeable.merging.method import Merged, State

if TYPE_CHECKING:
    import torch

_Place = tuple[str, int] | None  # a layer, or outside of all
# The models whose curves the report draws, by subject and alignment: a name and a title each.
DRAWN = {
    ("open", ""): (OPEN_CURVE, "unprotected"),
    ("protected", ""): ("protected", "as released"),
    ("protected", FULL): (ALIGNED_CURVE, "aligned"),
}


@dataclass
class Curves:
    """Curves of models in turn, so that one at a time need be in memory.

    Attributes:
        inputs: of the audit.
        points: along the line, ends included; none if less than two.
        line: one entry per model, for the report.
        displacement: likewise.
    """

    inputs: AuditInputs
    points: int
    line: list[dict[str, Any]] = field(default_factory=list)
    displacement: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, title: str, start: Start, advance: Callable[[], None]) -> None:
        """Measures a model's two curves."""
        model = start.model
        layers, values = displacement(self.inputs, model.state, start.unknown)
        self.displacement.append({"name": name, "values": values})
        self._layers = layers
        if self.points < 2:
            return
        names = [task.name for task in self.inputs.tasks.tasks]
        curve: dict[str, Any] = {"name": name, "title": title}
        curve |= {"losses": {n: [] for n in names}, "accuracies": {n: [] for n in names}}
        peer = self.inputs.candidates.peers[0]
        for at in self.at:
            about = {"line": at, "from": peer.identity, "to": model.identity}
            if at in (0, 1):  # models by themselves, which were scored before
                about = {"weights": model.identity if at else peer.identity}

            def make(at: float = at) -> Merged:
                return Merged(_between(peer.state, model.state, at))

            scores = self.inputs.evaluator.scores(about, make, "validation")
            for task, score in zip(names, scores, strict=True):
                curve["losses"][task].append(score.loss)
                curve["accuracies"][task].append(score.accuracy)
            advance()
        self.inputs.evaluator.forget()
        self.line.append(curve)

    @property
    def at(self) -> list[float]:
        """Where along the line, 0 at the peer."""
        return [round(step / (self.points - 1), 6) for step in range(self.points)]

    def document(self) -> dict[str, Any]:
        """The report's entries `line` and `displacement`."""
        line = {"at": self.at, "curves": self.line} if self.line else None
        return {"line": line, "displacement": {"layers": self._layers, "curves": self.displacement}}


def displacement(
    inputs: AuditInputs, state: State, unknown: Mapping[str, float]
) -> tuple[list[str], list[float | None]]:
    """Per layer, the Frobenius distance to the base relative to the base's norm.

    Tensors outside the layers (embeddings, final norm, heads) come first, as one. A distance that
    is not finite is None.

    Args:
        inputs: of the audit.
        state: the model's tensors.
        unknown: by tensor, what more its squared distance may be.
    """
    gaps: dict[_Place, float] = defaultdict(float)
    norms: dict[_Place, float] = defaultdict(float)
    for name, tensor in inputs.candidates.base.state.items():
        if tensor.is_floating_point():
            at = place(inputs.layout, name)
            gaps[at] += float((state[name] - tensor).double().square().sum())
            gaps[at] += unknown.get(name, 0.0)
            norms[at] += float(tensor.double().square().sum())
    order = list(inputs.layout.spaces)
    places = sorted(gaps, key=lambda at: (order.index(at[0]), at[1]) if at else (-1, 0))
    several = len({at[0] for at in places if at}) > 1
    labels = [_label(at, several) for at in places]
    found = [(gaps[at] / max(norms[at], 1e-300)) ** 0.5 for at in places]
    return labels, [value if math.isfinite(value) else None for value in found]


def _label(at: _Place, several: bool) -> str:
    """What the report calls a layer: its number, and its stack where there are several."""
    if at is None:
        return "embeddings"
    stack, number = at
    return f"{stack.replace('_', ' ')} {number}" if several else str(number)


def _between(start: State, end: State, at: float) -> dict[str, torch.Tensor]:
    if at in (0, 1):
        return dict(end if at else start)
    return {
        name: tensor + at * (end[name] - tensor) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }
