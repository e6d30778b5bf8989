"""Regrowth: the blocks of a base destroyed, and grown again until they do what they did.

1. *Destroyed*: every matrix that reads the residual stream in a layer gives way to random mixtures
   of its own rows, and the biases beside them to random numbers. What stands on the stream alone,
   norms and embeddings and heads, stays.
2. *Blocks*: layer by layer, matrices that write into the stream are fitted in closed form; then the
   whole block is trained to make of the base's own states what the base's block makes of them, both
   [disturbed][unmergeable.relocation.disturbance]. So each block stands by itself, and the noise on
   what it is given keeps it from hanging on the blocks before it.
3. *Whole*: all layers together are trained to give the base's last states, next tokens where it
   predicts any, and with a weight that falls to zero its inner states.

No correspondence to the base's weights is left, so what a peer added to those does nothing here.

Source: "Gall" and "Gwarp" of our own exploration.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.blocks import Blocks
from unmergeable.attacks.parts import layers, norm_vectors, residual, writers
from unmergeable.attacks.ridge_fit import RidgeFit
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import precision
from unmergeable.evaluation.task import Batch
from unmergeable.gauge.notation import sides
from unmergeable.merging.method import Corpus, State
from unmergeable.models.device import placed
from unmergeable.models.model_runner import ModelRunner
from unmergeable.relocation.disturbance import Disturbance
from unmergeable.relocation.texts import tokens_of
from unmergeable.training.loop import Plan, train

if TYPE_CHECKING:
    import torch

Count = Callable[[int, str], None]

RIDGE = 1e-3
FIT_TOKENS = 16  # for the closed form, times the width of what is fitted
# Of the whole: the weight of inner states at first, and the share of the steps in which it falls.
INNER, FALL = 0.3, 0.6


@dataclass(frozen=True)
class Growth:
    """How much work a regrowth is.

    Attributes:
        block_steps: of each block.
        steps: of the whole.
        disturbance: strength of that of the inner states.
        noise: on the states that a block is given, as a share of their spread.
        block_rate: highest learning rate of a block.
        rate: of the whole.
        stops: after so many parts of the steps of the whole the held-out error is looked at.

    Examples:
        >>> unmergeable.Growth(block_steps=300, steps=900, disturbance=0.5).rate
        0.0006
    """

    block_steps: int
    steps: int
    disturbance: float
    noise: float = 0.1
    block_rate: float = 1.5e-3
    rate: float = 6e-4
    stops: int = 4


EFFORTS = {
    "low": Growth(300, 500, 0.0),
    "medium": Growth(300, 900, 0.5),
    "high": Growth(600, 2400, 0.5),
}


@dataclass(frozen=True, eq=False)
class Regrowth:
    """A base, and what is needed to grow another from it.

    Attributes:
        runner: runs weights.
        layout: which axis of which tensor is what.
        base: the public base's tensors.
        texts: what it grows on.
        held_out: what it is measured on.
        growth: how much work.
        seed: of whatever is drawn.
    """

    runner: ModelRunner
    layout: Layout
    base: State
    texts: Corpus
    held_out: Corpus
    growth: Growth
    seed: int

    @property
    def trained(self) -> set[str]:
        """The tensors of all layers."""
        return {name for layer in layers(self.layout, "layer") for name in layer}

    @property
    def steps(self) -> int:
        """How many there will be."""
        return self.growth.block_steps * len(layers(self.layout, "layer")) + self.growth.steps

    def destroyed(self) -> dict[str, torch.Tensor]:
        """The base with random mixtures for the matrices that read the stream in layers."""
        import torch

        draw = torch.Generator().manual_seed(self.seed)
        stream, norms = residual(self.layout), norm_vectors(self.layout)
        made, mixed = dict(self.base), set()
        for name in sorted(self.trained):
            axes = self.layout.placements[name].rule.axes
            reading = [n for n, axis in enumerate(axes) if "read" in sides(axis, stream)]
            others = [axis for n, axis in enumerate(axes) if n not in reading]
            names = {one for axis in others for one in axis.names()}
            inner = {one for one in names if self.layout.spaces[one].group}
            if len(axes) > 1 and len(reading) == 1 and inner - self.layout.numbering:
                made[name] = _mixture(self.base[name], reading[0], draw)
                mixed.add(name.rpartition(".")[0])
        for name in sorted(self.trained - norms):
            old = self.base[name]
            if old.ndim == 1 and name.rpartition(".")[0] in mixed:
                noise = torch.randn(old.shape, generator=draw)
                made[name] = old.mean() + old.std(correction=0) * noise
        return made

    def grow(
        self,
        student: State,
        count: Count,
        known: Callable[[int], State | None] = lambda layer: None,
    ) -> Iterator[tuple[int, State]]:
        """Grows one block after the other.

        Args:
            student: the weights at first; not changed.
            count: told of every step.
            known: from a layer to its tensors, where they have been grown before.

        Yields:
            The layer, and its tensors.

        Raises:
            InputError: training diverged.
        """
        few = self.texts.batches[: self.growth.block_steps]
        blocks = Blocks(self.runner, self.layout, self.base, Corpus(self.texts.task, few))
        wanted, disturbed = blocks.enter(self.base), self._disturbance()
        for layer in range(len(blocks)):
            found = known(layer)
            given = wanted
            targets: dict[str, list[torch.Tensor]] = {}
            self.runner.load_state(self.base)
            if found is None:
                targets = self._targets(blocks, layer, wanted)
            wanted = blocks.onward(layer, wanted)
            if found is None:
                goal = wanted
                if layer > 0:
                    given = [disturbed(layer - 1, states) for states in given]
                if layer < len(blocks) - 1:
                    goal = [disturbed(layer, states) for states in wanted]
                state = dict(student)
                self._fit(blocks, layer, state, given, targets)
                found = self._block(blocks, layer, state, given, goal, count)
            yield layer, found

    def _targets(
        self, blocks: Blocks, layer: int, streams: list[torch.Tensor]
    ) -> dict[str, list[torch.Tensor]]:
        """What a block's writing matrices give out, on as many texts as a closed form needs."""
        outs = writers(self.layout)
        names = [name for name in blocks.names[layer] if name in outs]
        widest = max((self.base[name].shape[1 - outs[name]] for name in names), default=0)
        few, tokens = 0, 0
        while few < len(streams) and tokens < FIT_TOKENS * widest:
            tokens += tokens_of(self.texts.batches[few : few + 1])
            few += 1
        return blocks.said(names, layer, streams[:few])[0]

    def _fit(
        self,
        blocks: Blocks,
        layer: int,
        state: dict[str, torch.Tensor],
        given: list[torch.Tensor],
        targets: dict[str, list[torch.Tensor]],
    ) -> None:
        """Fits a block's writing matrices in closed form, in their order of computation."""
        for name, wanted in targets.items():
            fit = RidgeFit.of(state, name, writers(self.layout)[name], RIDGE)
            self.runner.load_state(state)
            for batch, x in enumerate(blocks.heard(name, layer, given[: len(wanted)])):
                fit.add(x, wanted[batch], blocks.real(batch, x.shape[1]))
            state.update(fit.solved() or {})

    def _block(
        self,
        blocks: Blocks,
        layer: int,
        state: State,
        given: list[torch.Tensor],
        goal: list[torch.Tensor],
        count: Count,
    ) -> State:
        """A block, trained to turn one stream into another."""
        import torch

        draw, left = random.Random(f"{self.seed} {layer}"), list[int]()
        dice = torch.Generator().manual_seed(self.seed + layer)
        names = blocks.names[layer]

        def losses(step: int) -> Iterator[torch.Tensor]:
            if not left:
                left.extend(draw.sample(range(len(goal)), len(goal)))
            batch = left.pop()
            states = given[batch]
            noise = torch.randn(states.shape, generator=dice).to(states.device) * states.std()
            made = blocks.run(layer, states + self.growth.noise * noise, batch).float()
            yield _distance(made, goal[batch], blocks.real(batch, made.shape[1]))
            count(1, f"growing layer {layer}")

        plan = Plan((self.growth.block_steps,), self.growth.block_rate, warm=0.05, fall=0.9)
        loop = train(self.runner, state, losses, plan.rate_at, plan.stops, only=names)
        found = next(loop, None)
        if found is None:
            raise InputError(f"layer {layer} diverged while it grew: take more text.")
        return {name: found[1][name] for name in names}

    def finish(self, student: State, count: Count) -> State:
        """Trains all layers together, and returns the snapshot of the least held-out error.

        Raises:
            InputError: training diverged before the first snapshot.
        """
        model: Any = self.runner.model
        self.runner.load_state(self.base)
        teacher = copy.deepcopy(model)
        steps = self.growth.steps
        disturbed = self._disturbance()
        draw, left = random.Random(f"{self.seed} whole"), list[Batch]()

        def losses(step: int) -> Iterator[torch.Tensor]:
            if not left:
                left.extend(draw.sample(self.texts.batches, len(self.texts.batches)))
            batch = left.pop()
            weight = INNER * max(0.0, 1 - step / (FALL * steps))
            yield _whole(model, teacher, batch, weight, disturbed)
            count(1, "growing the whole")

        stops = [steps * part // self.growth.stops for part in range(1, self.growth.stops + 1)]
        plan = Plan((steps,), self.growth.rate, warm=0.05, fall=0.9)
        best: tuple[float, State] | None = None
        for _, state in train(self.runner, student, losses, plan.rate_at, stops, only=self.trained):
            error = self.error(state)
            if best is None or error < best[0]:
                best = error, {name: state[name] for name in student}
        if best is None:
            raise InputError("training diverged: take more text, or --effort high.")
        return best[1]

    def error(self, state: State) -> float:
        """How far last states are from the base's on held-out text, as a share of their variance.

        The mean over all positions counts as known.
        """
        wanted, made = (self._states(weights) for weights in (self.base, state))
        gap = (made - wanted).square().sum()
        return float(gap / (wanted - wanted.mean(0)).square().sum())

    def _states(self, state: State) -> torch.Tensor:
        """The last states of a model on held-out text: float32 (positions, width)."""
        import torch

        self.runner.load_state(state)
        rows = []
        with torch.no_grad(), precision(self.runner):
            for batch in self.held_out.batches:
                last: torch.Tensor = _outputs(self.runner.model, batch)[1][-1].float().cpu()
                rows.append(last[batch.inputs["attention_mask"].bool()])
        found: torch.Tensor = torch.cat(rows)
        return found

    def _disturbance(self) -> Disturbance:
        width = self.layout.spaces[residual(self.layout)].size or 0
        return Disturbance(width, self.growth.disturbance, self.seed)


def _mixture(old: torch.Tensor, reading: int, draw: torch.Generator) -> torch.Tensor:
    """Random mixtures of a matrix's rows, each as long as rows are on average.

    Args:
        old: a matrix, or a stack of them.
        reading: the axis along which it reads; rows are counted by the last one of the others.
        draw: random numbers.
    """
    import torch

    writing = max(axis for axis in range(old.ndim) if axis != reading)
    rows = old.movedim((writing, reading), (-2, -1))
    count = rows.shape[-2]
    made: torch.Tensor = torch.randn(*rows.shape[:-2], count, count, generator=draw) @ rows
    lengths = rows.norm(dim=-1, keepdim=True).mean(-2, keepdim=True)
    made = made * (lengths / made.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    return made.movedim((-2, -1), (writing, reading)).contiguous()


def _distance(made: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """How far states are from others, as a share of the others' variance.

    What all positions have in common counts for nothing: heads read what varies. Each position
    counts by its own length, since some streams are a thousand times as long at a few positions.
    """
    if real is None:
        made, wanted = made.flatten(0, -2), wanted.flatten(0, -2)
    else:
        made, wanted = made[real], wanted[real]
    counts = 1 / wanted.square().sum(-1, keepdim=True).clamp(min=1e-12)
    centre = (counts * wanted).sum(0) / counts.sum()
    varying = (counts * (wanted - centre).square()).sum().clamp(min=1e-12)
    return (counts * (made - wanted).square()).sum() / varying


def _outputs(model: Any, batch: Batch) -> tuple[torch.Tensor | None, Sequence[torch.Tensor]]:
    """A model's next-token logits, if it gives any, and all its states, the last one last."""
    out = model(**placed(model, batch.inputs), output_hidden_states=True)
    logits: torch.Tensor | None = getattr(out, "logits", None)
    if logits is not None and logits.shape[:2] != batch.inputs["input_ids"].shape:
        logits = None
    last = getattr(out, "last_hidden_state", None)
    states = list(out.hidden_states)
    return logits, states if last is None else [*states[:-1], last]


def _whole(
    model: Any, teacher: Any, batch: Batch, inner: float, disturbed: Disturbance
) -> torch.Tensor:
    """How far a model is from its teacher on a batch."""
    import torch

    with torch.no_grad():
        said, wanted = _outputs(teacher, batch)
    given, made = _outputs(model, batch)
    real = batch.inputs["attention_mask"].bool().to(made[-1].device)
    loss = _distance(made[-1].float(), wanted[-1].float(), real)
    for pooled in (_mean, _first):  # what heads read
        loss = loss + _distance(pooled(made[-1], real), pooled(wanted[-1], real), None)
    if given is not None and said is not None:
        loss = loss + torch.nn.functional.kl_div(
            given[real].float().log_softmax(-1),
            said[real].float().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
    if inner:
        pairs = list(zip(made[1:-1], wanted[1:-1], strict=True))
        for layer, (x, y) in enumerate(pairs):
            gap = _distance(x.float(), disturbed(layer, y.float()), real)
            loss = loss + inner / len(pairs) * gap
    return loss


def _mean(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The mean state of each text: shape (texts, width)."""
    return (states.float() * real[..., None]).sum(1) / real.sum(1)[:, None]


def _first(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The first state of each text: shape (texts, width)."""
    return states[:, 0].float()
