"""PaRaMS: neurons put where the base's are least alike, and random scaling inside each head.

Source: "Disrupting Model Merging: A Parameter-Level Defense Without Sacrificing Accuracy" (arXiv
2503.07661, ICCV 2025) and its code, ISCT-W/PaRaMS, after which ranges and modes are named. Its
third module, Params-D (dropout pruning), changes the function and is not here.

1. *MLP rearrangement.* In each layer C = up_v up_pre' + b_v b_pre' + down_v' down_pre (victim v,
   pretrained pre) and the permutation that minimises its sum, by linear assignment. A gated FFN
   adds the gate's inner products, which is our extension: the code has no gated FFN. The published
   code solves for the pretrained side and applies the result to the victim without inverting it,
   which cannot displace more than the optimum; `as_published` reproduces that. (It costs little
   where the fine-tuning is small: C is then nearly symmetric, and the inverse nearly as good.) The
   function stays either way.
2. *Multi-head scaling.* One element per head, or key-value head, on queries and keys and the same
   on values and outputs, as in the code, where the two spaces have the same group and size; where
   they have not (rotary positions, other sizes) each has its own. `diagonal`: entries uniform in
   (0.05, 20). `symmetric`: U diag(s) U', s log-uniform in (0.05, 20). `nonsymmetric`: (G + 1e-3 I)
   diag(s), G standard normal, s log-uniform in (0.1, 15). Under rotary positions, which the code
   does not handle, independent entries would break the model: `diagonal` is one positive number per
   plane, the others one complex number per plane with the modulus law of s and any angle (ours).
   Where the architecture allows neither (norms on queries and keys), the space stays.

What it claims (claimed, through summaries): the function stays, and merged accuracy falls to a few
percent: ViT-B/32 pairs from 70 and 94 % to 0.5 and 2 %; Llama 2 from 97.6 to 21.4 %. Exact up to
one rounding of the heads; the MLP part is lossless. The published ranges are ill-conditioned: on
SmolLM2-135M, with heads of 64, the median condition numbers on values and outputs are 75, 346 and
5 900 (`benchmarks/defence_rounding.py`). A diagonal costs no precision all the same; the others do.
In bfloat16 the products of values and outputs are off by 2.3e-3 unmoved and under `diagonal`, by
0.075 under `symmetric` and by 0.56 under `nonsymmetric`. So this cost is measured for each model,
and refused above `tolerance`.

Data needed: none, but the public base for the MLP part, whose assignment grows with the third power
of a layer's neurons. Architectures: the paper's are ViT, Llama
2 and Stable Diffusion 1.5, its code is for CLIP-ViT alone; here every declared family. Changes in
the folder: the values of attention's q, k, v, o and of the FFN, and the manifest. What undoes it:
`align`, in seconds from the public base; AGA (arXiv 2606.30360): least squares per head, and
matching of neurons (`benchmarks/align_methods.py --lock params params-nonsymmetric`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.defences.defence import Claim, Decision, FieldRow, GaugeDefence, Subject, Summary
from unmergeable.defences.roles import HEADS, NEURONS, shown, sibling, spaces_for
from unmergeable.defences.rounding import TOLERANCE, check_rounding, conditions, rounding
from unmergeable.errors import InputError, ManifestError
from unmergeable.extras import optional
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.groups import Linear, Rotary, RotaryTurns
from unmergeable.gauge.notation import Gauge, Space
from unmergeable.gauge.randomness import Randomness
from unmergeable.keys.key import Key
from unmergeable.settings import Choice, Flag, Number, Setting, read

# The official code's ranges; `diagonal` is uniform, the others are log-uniform.
RANGES = {"diagonal": (0.05, 20.0), "symmetric": (0.05, 20.0), "nonsymmetric": (0.1, 15.0)}
_RIDGE = 1e-3


class Params(GaugeDefence):
    """See the module."""

    name = "params"
    title = "PaRaMS (after the paper and its code; gated FFN, rotary and grouped heads are ours)"
    paper = "arXiv 2503.07661, after its official code"
    needs_base = True
    order = 30
    summary = Summary(
        claims="merged models fall to chance",
        exact="exact up to rounding",
        needs="`--base`",
        changes="attention and FFN weights and biases",
        undone_by="`align` (also `--method aga`)",
    )
    claims = (
        Claim(
            "arXiv 2606.30360 (a summary of it; ViT-B/32, task arithmetic)",
            "falls to anchor-guided alignment",
            "5.49 to 66.39 of 67.23 % accuracy",
            "attacked",
        ),
        Claim(
            "arXiv 2503.07661 (a summary of it; ViT-B/32, task arithmetic, EuroSAT with SVHN)",
            "merged models fall to chance",
            "98.06 and 95.90 to 9.67 and 19.41 % accuracy",
            "released",
        ),
        Claim(
            "arXiv 2503.07661 (title)",
            "a defence without sacrificing accuracy",
            "no loss",
            "own",
        ),
    )
    rows = (
        FieldRow("params", "PaRaMS, diagonal", main=True, order=40),
        FieldRow("params-mergelock", "PaRaMS + MergeLock", then="mergelock", order=90),
        FieldRow(
            "params-symmetric", "PaRaMS, symmetric", {"variant": "symmetric"}, extra=True, order=130
        ),
        FieldRow(
            "params-nonsymmetric",
            "PaRaMS, nonsymmetric",
            {"variant": "nonsymmetric"},
            extra=True,
            order=140,
        ),
        FieldRow(
            "params-as-published",
            "PaRaMS as published",
            {"as_published": "true"},
            extra=True,
            order=150,
        ),
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "parts": Choice("both, mlp or heads.", "both", choices=("both", "mlp", "heads")),
        "variant": Choice(
            "diagonal, symmetric or nonsymmetric: what a head is scaled by.",
            "diagonal",
            choices=tuple(RANGES),
        ),
        "low": Number(
            "lower end of the range of scales.", None, "0.05, for nonsymmetric 0.1", above=True
        ),
        "high": Number(
            "upper end of the range of scales.", None, "20, for nonsymmetric 15", above=True
        ),
        "as_published": Flag(
            "true applies the neurons' permutation as the published code does, without inverting "
            "it."
        ),
        "tolerance": Number(
            "allowed relative error of a head's products from rounding, median over heads. The "
            "default is four times what bfloat16 costs an open model.",
            TOLERANCE,
            above=True,
        ),
    }

    def decide(self, given: Mapping[str, Any], subject: Subject) -> Decision:
        """Solves the assignments, and measures what was drawn; see `GaugeDefence`.

        Raises:
            InputError: an unknown setting or value, no base, or a model without what would move.
            PrecisionError: a draw that the model's dtype cannot hold.
        """
        layout, settings = subject.layout, _resolve(given)
        tolerance = settings.pop("tolerance")
        heads, neurons = _moved(layout, settings["parts"])
        found: dict[tuple[str, tuple[int, ...]], Index] = {}
        measured: dict[str, Any] = {}
        if neurons:
            found, measured["mlp"] = _rearrange(subject, neurons, settings["as_published"])
        secret = _packed(layout, neurons, found)
        if heads:
            gauge = self.gauge(subject.key, layout, settings, secret)
            drawn = measured["condition"] = conditions(layout, heads, gauge)
            cost = measured["rounding"] = rounding(subject, heads, gauge)
            advice = (
                "Narrow the range with --set low=... and high=..., choose --set variant=diagonal, "
                "which costs nothing, or convert the model to float32."
            )
            check_rounding(cost, drawn, tolerance, advice)
        bits = {space.name: 0.0 for space in (*heads, *neurons)}  # continuous, or not the key's
        return Decision(settings, not heads, bits, secret, measured)

    def gauge(self, key: Key, layout: Layout, settings: Mapping[str, Any], secret: bytes) -> Gauge:
        """Draws from streams named "params/SPACE/INDEX..."; permutations come from the secret.

        Raises:
            ManifestError: a secret that does not fit the model.
        """
        heads, neurons = _moved(layout, settings["parts"])
        names = {space.name for space in heads}
        orders = _unpacked(layout, neurons, secret)

        @lru_cache(maxsize=4096)
        def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
            if (space.name, instance) in orders:
                return AxisMap.monomial(orders[space.name, instance])
            if space.name not in names:
                return AxisMap.identity(space.size or 0)
            name = "/".join(["params", _stream(layout, space), *map(str, instance)])
            return _draw(space, key.randomness(name), settings)

        return element


def _resolve(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, complete."""
    settings = read(Params.settings, given, Params.name)
    for name, default in zip(("low", "high"), RANGES[settings["variant"]], strict=True):
        if settings[name] is None:
            settings[name] = default
    if settings["low"] > settings["high"]:
        raise InputError(f"low={settings['low']:g} is above high={settings['high']:g}.")
    return settings


def _moved(layout: Layout, parts: str) -> tuple[list[Space], list[Space]]:
    """The spaces inside heads that move, and the neurons that do.

    Raises:
        InputError: the model has none of a part.
    """
    heads = [
        space
        for space in spaces_for(layout, *HEADS)
        # Planes that may turn but not stretch leave PaRaMS nothing to scale.
        if parts != "mlp"
        and isinstance(space.group, Linear | Rotary)
        and not isinstance(space.group, RotaryTurns)
    ]
    neurons = spaces_for(layout, *NEURONS) if parts != "heads" else []
    for part, missing in (("heads", not heads), ("mlp", not neurons)):
        if parts in ("both", part) and missing:
            other = "mlp" if part == "heads" else "heads"
            raise InputError(
                f"{layout.family} {layout.model_class} has nothing that parts={part} could move. "
                f"Try --set parts={other}."
            )
    return heads, neurons


def _stream(layout: Layout, space: Space) -> str:
    """Whose stream a head's element is drawn from: that of its values, if both are of one kind."""
    other = sibling(layout, space, "vo")
    same = other and (other.size, other.group, other.per) == (space.size, space.group, space.per)
    return other.name if other and same else space.name


def _draw(space: Space, random: Randomness, settings: Mapping[str, Any]) -> AxisMap:
    """One head's element."""
    size, variant = space.size or 0, settings["variant"]
    low, high = settings["low"], settings["high"]
    rotary = isinstance(space.group, Rotary)
    unit = random.uniform(size // 2 if rotary else size)
    scales = low + (high - low) * unit if variant == "diagonal" else low * (high / low) ** unit
    if isinstance(space.group, Rotary):
        turns = np.ones(len(scales), complex)
        if variant != "diagonal":
            turns = np.exp(2j * np.pi * random.uniform(len(scales)))
        return space.group.element(size, scales * turns)
    if variant == "diagonal":
        return AxisMap.monomial(np.arange(size), scales)
    if variant == "symmetric":
        basis = random.orthogonal(size)
        return AxisMap.block((basis * scales) @ basis.T)
    matrix = random.normal(size * size).reshape(size, size) + _RIDGE * np.eye(size)
    return AxisMap.block(matrix * scales)


def _rearrange(
    subject: Subject, spaces: Sequence[Space], as_published: bool
) -> tuple[dict[tuple[str, tuple[int, ...]], Index], dict[str, float]]:
    """The permutation of every layer's neurons, and how unlike the base they stand then.

    Returns:
        Sources by space and instance; and the sums of inner products of neurons that stand in the
        same place as the base's, over all layers and relative to the neurons' norms: `before` and
        `after` the rearrangement.

    Raises:
        InputError: no base, or one of other shapes.
    """
    if subject.base is None:
        raise InputError(
            "PaRaMS rearranges neurons against the public base: give it with --base, or leave "
            "neurons alone with --set parts=heads."
        )
    known = _checked(subject.layout, subject.base)
    found, before, after, norm = {}, 0.0, 0.0, 0.0
    for space in spaces:
        for instance in subject.layout.instances(space):
            victim = features(subject.layout, space, instance, subject.values)
            base = features(subject.layout, space, instance, known)
            cost = victim @ base.T
            source = found[space.name, instance] = mismatch(cost, as_published)
            before += float(np.trace(cost))
            after += float(cost[source, np.arange(len(source))].sum())
            norm += float(np.linalg.norm(victim) * np.linalg.norm(base))
    return found, {"before": before / norm, "after": after / norm}


def _checked(layout: Layout, base: Callable[[str], Float]) -> Callable[[str], Float]:
    """The base's tensors, or an error where they are not those of the model's layout."""

    def values(name: str) -> Float:
        axes = layout.placements[name].rule.axes
        wanted = tuple(axis.size(layout.spaces) for axis in axes)
        try:
            tensor = base(name)
        except KeyError:
            raise InputError(f"the base has no tensor {name!r}. Is this its base?") from None
        if len(tensor.shape) != len(wanted) or any(
            size not in (None, have) for size, have in zip(wanted, tensor.shape, strict=True)
        ):
            raise InputError(
                f"{name} has shape {tensor.shape} in the base, not {wanted} as in the model. Is "
                "this its base?"
            )
        return tensor

    return values


def features(
    layout: Layout, space: Space, instance: tuple[int, ...], values: Callable[[str], Float]
) -> Float:
    """All that a model says of each neuron: rows and columns of its matrices, biases and gates.

    Args:
        layout: the model's.
        space: a layer's neurons.
        instance: which layer.
        values: a tensor by name, float64, in its shape.

    Returns:
        One row per neuron, shape (n, m).
    """
    rows = [view.rows for view in shown(layout, space, instance, values)]
    return np.concatenate(rows, axis=1)


def mismatch(cost: Float, as_published: bool = False) -> Index:
    """The order of the victim's neurons that makes the summed cost against the base smallest.

    Args:
        cost: inner products, shape (n, n), the victim's neurons down, the base's across.
        as_published: return the assignment uninverted, as the published code applies it.

    Returns:
        The old position of each new one, shape (n,).
    """
    place = np.asarray(optional("scipy.optimize").linear_sum_assignment(cost)[1], np.int64)
    return place if as_published else np.asarray(np.argsort(place), np.int64)


def _width(space: Space) -> str:
    """The numpy name of the narrowest integers that number a space's positions."""
    return "<u2" if (space.size or 0) <= 1 << 16 else "<u4"


def _packed(
    layout: Layout, spaces: Sequence[Space], orders: Mapping[tuple[str, tuple[int, ...]], Index]
) -> bytes:
    """All permutations, one after the other in the layout's order, little-endian, deflated."""
    parts = [
        orders[space.name, instance].astype(_width(space)).tobytes()
        for space in spaces
        for instance in layout.instances(space)
    ]
    return zlib.compress(b"".join(parts), 9) if parts else b""


def _unpacked(
    layout: Layout, spaces: Sequence[Space], secret: bytes
) -> dict[tuple[str, tuple[int, ...]], Index]:
    """The permutations again.

    Raises:
        ManifestError: bytes that are not permutations of this model's neurons.
    """
    places = [(space, instance) for space in spaces for instance in layout.instances(space)]
    sizes = [(space.size or 0) * np.dtype(_width(space)).itemsize for space, _ in places]
    wrong = ManifestError("the manifest's secret does not hold this model's permutations.")
    inflate = zlib.decompressobj()
    try:
        # Bounded, so that a forged manifest cannot fill the memory.
        data = inflate.decompress(secret, sum(sizes) + 1) if secret else b""
    except zlib.error:
        raise wrong from None
    if len(data) != sum(sizes):
        raise wrong
    found, start = {}, 0
    for (space, instance), size in zip(places, sizes, strict=True):
        order = np.frombuffer(data[start : start + size], _width(space)).astype(np.int64)
        if (np.sort(order) != np.arange(len(order))).any():
            raise wrong
        found[space.name, instance] = order
        start += size
    return found
