"""Tiny models of every family for attacks: a base, an expert on it, a peer, and their thief."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch

from tests.architectures.families import FAMILIES, VOCAB
from unmergeable.architectures.layout import Layout
from unmergeable.attacks.attack import Thief
from unmergeable.evaluation.task import Batch, Task
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.merging.method import Corpus
from unmergeable.models.model_runner import ModelRunner

NAMES = ["llama", "llama-tied", "gpt2", "bert-classifier", "vit-classifier", "dinov2-gated"]
ROBBED = [family for family in FAMILIES if family.name in NAMES]


def tensors(model):
    """A model's tensors as its folder holds them: tied ones once, buffers left out."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def near(base, seed, size=0.05, rank=2):
    """A model near the base: low-rank changes of its matrices, small ones of its vectors."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in base.items():
        matrix = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)
        left = torch.randn(len(matrix), rank, generator=random)
        right = torch.randn(rank, matrix.shape[1], generator=random)
        change = (left @ right).reshape(tensor.shape)
        state[name] = tensor + size * change * tensor.norm() / change.norm()
    return state


def config_of(model):
    return {**model.config.to_dict(), "architectures": [type(model).__name__]}


def thief_of(family):
    """A thief without texts, and the clean expert that he is after; do not change them."""
    return _made(family.name)


@cache
def _made(name):
    model = next(family for family in FAMILIES if family.name == name).build()
    base = tensors(model)
    layout = Layout.of(config_of(model), {key: tuple(t.shape) for key, t in base.items()})
    return Thief(base, [near(base, 2)], layout, ModelRunner(model)), near(base, 1)


def gap(one, two):
    """Relative distance of two models."""
    square = sum(float((one[name] - two[name]).square().sum()) for name in two)
    return (square / sum(float(tensor.square().sum()) for tensor in two.values())) ** 0.5


def noise(state, seed, size):
    random = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(tensor.shape, generator=random) * tensor.std().nan_to_num()
        for name, tensor in state.items()
    }


class Unreadable:
    """Labels that must not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"an attack reads labels that it has not: .{name}")

    def __bool__(self):
        raise AssertionError("an attack reads labels that it has not")


@dataclass(frozen=True, kw_only=True)
class Toy(Task):
    """Answers of any family, from inputs that are made up."""

    kind: ClassVar[str] = "toy"

    def batches(self, runner, texts, labels=None, groups=None):
        raise AssertionError("an attack encodes texts itself")

    def logits(self, model, batch):
        out = model(**batch.inputs).logits
        return (out[:, -1] if out.ndim == 3 else out).float()


def corpus(family, count, seed, labels=None, size=8):
    """Synthetic inputs of a family, some of them padded."""
    random = torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, count, size):
        rows = tuple(range(start, min(start + size, count)))
        if family.image:
            inputs = {"pixel_values": torch.randn(len(rows), 3, 16, 16, generator=random)}
        else:
            ids = torch.randint(3, VOCAB, (len(rows), 10), generator=random)
            inputs = {"input_ids": ids}
            if family.name.startswith("bert"):
                mask = torch.ones_like(ids)
                mask[0, 6:] = 0
                inputs["attention_mask"] = mask
        own = Unreadable() if labels is None else torch.full((len(rows),), labels)
        batches.append(Batch(inputs, rows, own, {}))
    return Corpus(Toy(name="toy", title="toy"), batches)


def answers(thief, state, some):
    """What a model says to a corpus."""
    thief.runner.load_state(state)
    with torch.no_grad():
        return torch.cat([some.task.logits(thief.runner.model, batch) for batch in some.batches])


def merge(thief, state):
    """The mean of a model and the peer."""
    return {name: (tensor + thief.peers[0][name]) / 2 for name, tensor in state.items()}


def reordered(thief, state, spaces=("ffn", "gated"), seed=5):
    """The same function with some spaces in another order, so that merges fail."""
    random = np.random.default_rng(seed)
    drawn = {}

    def gauge(space, instance):
        if space.name not in spaces:
            return AxisMap.identity(space.size)
        key = (space.name, instance)
        if key not in drawn:
            drawn[key] = AxisMap.monomial(random.permutation(space.size))
        return drawn[key]

    return {
        name: torch.from_numpy(
            thief.layout.tensor_map(name, gauge)(tensor.double().numpy())
        ).float()
        for name, tensor in state.items()
    }
