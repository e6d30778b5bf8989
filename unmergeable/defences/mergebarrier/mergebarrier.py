"""MergeBarrier-style protection, reconstructed: sign flips in attention, unfolded FFN activations.

What it claims (claimed, abstract): merging is prevented at a negligible loss; a summary says under
0.3 % of the model's accuracy. What summaries say of merged models disagrees and is not repeated;
the paper of AGA (arXiv 2606.30360) found 67.23 -> 29.32 % on ViT-B/32, and 60.80 % after its
attack. Exact: the attention part. Approximate: the FFN part, within the ranges that neurons showed
on calibration data; neurons that a polynomial cannot follow stay ordinary.

On real models (`benchmarks/mergebarrier_error.py`, order 8) either few neurons qualify or the model
suffers. All neurons expanded, SmolLM2, MiniLM and DINOv2 are destroyed. With neurons=auto and 48
texts, SmolLM2 expands half of its neurons (0 to 99 % a layer) and predicts the same next token at
95 % of positions of texts like those and 79 % of others; MiniLM expands 6 %. What hurts is not the
series but the ranges: unseen text leaves them, and the clamp then holds a neuron that should move.
More data, or a wider margin, lets fewer neurons qualify.

What it costs: the down projection of an expanded neuron is stored and multiplied order + 1 times.
The architecture changes, so that the folder carries code (`modeling_mergebarrier.py`) and loads
with `trust_remote_code=True` only: no stock class, vLLM or llama.cpp. It stops merge tools that go
by names and shapes. Data needed: unlabelled texts or images. Architectures: the paper's are Llama
and Qwen; here those whose FFN layers are listed in `custom_code` (Llama, Mistral, Qwen2, BERT, ViT,
DINOv2, GPT-2), with a smooth activation: ReLU has no Taylor polynomial, and is refused by name.
Changes in the folder: weights, their names and shapes, config.json, and the code.

What undoes it: `attacks.unfold`, in seconds, without key, base and data: the terms of one neuron
differ by factors that depend on its centre and sign alone. The flips are undone by `align`, or by
computing them again (`sign_flip`).

Reconstructed from the abstract of "Do Not Merge My Model! Safeguarding Open-Source LLMs Against
Unauthorized Model Merging" (arXiv 2511.10712) and secondary sources, with the mechanism of
TaylorMLP (arXiv 2410.05331); the paper's code was not seen. Ours: the treatment of rotary spaces
and gated FFNs, the choice of neurons, the clamp, and signs from the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from unmergeable.architectures.declaration import declaration_for
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.reading import Config
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.defences.defence import Claim, FieldRow, Rebuild, Rebuilt, Subject, Summary
from unmergeable.defences.mergebarrier.calibration import Item, Seen, calibrate
from unmergeable.defences.mergebarrier.ffn_plan import FfnPlan
from unmergeable.defences.mergebarrier.sign_flip import SPACE, attention_gauge
from unmergeable.defences.mergebarrier.stock_names import UNUSED, stock_values
from unmergeable.defences.mergebarrier.taylor_ffn import Shape, Stored, Unfolded, unfold_block
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.extras import optional
from unmergeable.gauge.floats import FORMATS, ROUNDABLE
from unmergeable.keys.key import Key
from unmergeable.models.model_runner import ModelRunner
from unmergeable.settings import Flag, Number, Setting, read

NAME = "mergebarrier"
TITLE = "MergeBarrier-style (reconstructed)"
FILE = "modeling_mergebarrier.py"
PREFIX, SECTION = "MergeBarrier", "mergebarrier"
_CLASS = re.compile(r"(\w+?)(For\w+|LMHeadModel|Model)")
DIRECTIONS = Number(
    "how many directions of each head's queries and keys are flipped. Few move the weights "
    "little, and all together are minus one, which anybody guesses.",
    None,
    "a quarter of the head's size",
    above=True,
    whole=True,
)
SETTINGS: Mapping[str, Setting] = {
    "directions": DIRECTIONS,
    "order": Number("of the Taylor polynomials, 1 to 12.", 8, high=12.0, above=True, whole=True),
    "neurons": Number(
        "auto: those whose polynomial is good enough; all; or a share such as 0.5 of each layer, "
        "the best ones.",
        "auto",
        high=1.0,
        above=True,
        words=("auto", "all"),
    ),
    "tolerance": Number(
        "for neurons=auto: relative error of an FFN block's output that all its neurons together "
        "may cause.",
        0.05,
        high=1e6,
        above=True,
    ),
    "margin": Number(
        "by what factor ranges are widened beyond those seen on the data.",
        1.1,
        high=1e6,
        above=True,
    ),
    "clamp": Flag(
        "true: what leaves the widened range is held at its border; false: not, and the polynomial "
        "explodes there.",
        True,
    ),
}


@dataclass(frozen=True)
class BarrierSettings:
    """The public parameters, resolved for one model; see `SETTINGS`."""

    directions: int
    order: int
    neurons: str | float
    tolerance: float
    margin: float
    clamp: bool

    @classmethod
    def resolve(cls, given: Mapping[str, Any], layout: Layout) -> BarrierSettings:
        """Fills in defaults for a model and checks what was given.

        Raises:
            InputError: an unknown setting or value.
        """
        space = layout.spaces.get(SPACE)
        size = (space.size if space else None) or 4
        directions = replace(DIRECTIONS, default=max(1, size // 4), high=size)
        return cls(**read({**SETTINGS, "directions": directions}, given, NAME))

    def public(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return dict(vars(self))

    @property
    def shape(self) -> Shape:
        """What concerns the FFN blocks."""
        return Shape(self.order, self.neurons, self.tolerance, self.margin)


@dataclass(frozen=True, eq=False)
class Conversion(Rebuilt):
    """A protected model.

    `measured` has "share", of expanded neurons, and "ffn_error", the relative error of each block's
    output on the calibration data, per layer; and their medians over the layers.

    Attributes:
        sources: per layer, which stock neuron each neuron is; for the owner, written nowhere.
    """

    sources: list[npt.NDArray[np.int64]]


class MergeBarrier(Rebuild):
    """MergeBarrier-style protection as the last link of a chain."""

    name = NAME
    title = TITLE
    paper = "arXiv 2511.10712, reconstructed from the abstract and secondary sources"
    settings = SETTINGS
    reconstructed = True
    order = 40
    summary = Summary(
        claims="merging is prevented at a negligible loss, by a summary under 0.3 %",
        exact="attention exact, FFN approximate",
        needs="`--data`, unlabelled",
        changes="**the architecture**: custom code, other tensors",
        undone_by="`align`, which unfolds the FFNs in closed form first",
    )
    claims = (
        Claim(
            "arXiv 2606.30360 (a summary of it; ViT-B/32, task arithmetic)",
            "falls to anchor-guided alignment in part",
            "29.32 to 60.80 of 67.23 % accuracy",
            "attacked",
        ),
    )
    rows = (FieldRow("mergebarrier", "MergeBarrier-style", main=True, order=50),)

    def rebuild(
        self,
        folder: ModelFolder,
        subject: Subject,
        given: Mapping[str, Any],
        data: Sequence[str],
    ) -> Rebuilt:
        """See [`Rebuild.rebuild`][unmergeable.defences.defence.Rebuild.rebuild]."""
        return convert(folder, subject.layout, subject.key, given, data, subject.values)


def convert(
    folder: ModelFolder,
    layout: Layout,
    key: Key,
    given: Mapping[str, Any],
    calibration: Sequence[Item] | None,
    values: Callable[[str], npt.NDArray[Any]],
) -> Conversion:
    """Protects a model.

    Args:
        folder: the stock model; its weights are not read.
        layout: its layout.
        key: the owner's; draws one sign per neuron, from the stream "mergebarrier/ffn/LAYER".
        given: settings by name.
        calibration: texts, or paths of images for a vision model; or the model's inputs.
        values: its tensors in float64 by name, perhaps under a lock.

    Raises:
        UnsupportedError: an architecture, activation or dtype that is not treated, named.
        InputError: an unknown setting, no data, or no neuron that a polynomial can follow.
    """
    model_type, classes = folder.config["model_type"], folder.config.get("architectures")
    plan = FfnPlan.of(model_type, Config(folder.config, declaration_for(model_type).aliases))
    if not classes:
        raise InputError(
            "config.json names no model class, so nobody knows what to load it as. Add "
            '"architectures" to it, with a name such as LlamaForCausalLM.'
        )
    settings = BarrierSettings.resolve(given, layout)
    if not calibration:
        raise InputError(
            f"{TITLE} protection needs unlabelled data, to learn the ranges of the neurons: give a "
            "file with --data FILE, one text (or path of an image) a line."
        )
    gauge = attention_gauge(layout, values, settings.directions)
    seen = _calibrate(folder, layout, plan, calibration, values)
    stock: dict[str, Stored] = {}
    for name, entry in folder.tensors.items():
        if entry.dtype not in FORMATS or name.endswith(UNUSED):
            continue  # a buffer, which transformers computes itself
        moved = layout.tensor_map(name, gauge)(np.asarray(values(name), np.float64))
        if entry.dtype not in ROUNDABLE:
            raise UnsupportedError(
                f"{name} is stored as {entry.dtype}, which is too narrow to be rounded into. "
                "Convert the model to a wider dtype first."
            )
        number = FORMATS[entry.dtype].number
        stock |= {own: part.astype(number) for own, part in stock_values(layout, name, moved)}
    made: list[Unfolded | None] = []
    counts = [len(record.low) for record in seen]
    for layer, (record, count) in enumerate(zip(seen, counts, strict=True)):
        signs = key.randomness(f"{NAME}/ffn/{layer}").signs(count)
        number = stock[plan.block(layer, plan.trunk(stock)).up + ".weight"].dtype
        ffn = plan.take(stock, layer)
        block = unfold_block(ffn, record, plan.activation, settings.shape, signs, number)
        if block is not None:
            plan.put(stock, layer, block)
            block = replace(block, tensors={})  # they are in `stock` now
        made.append(block)
    if not any(made):
        raise InputError(
            f"no neuron's activation stays close enough to a polynomial of order {settings.order} "
            f"for tolerance={settings.tolerance}. Raise one of them, or set neurons=0.5."
        )
    expanded = [block.expanded if block else 0 for block in made]
    share = [part / count for part, count in zip(expanded, counts, strict=True)]
    error = [block.error if block else 0.0 for block in made]
    measured = {
        "share": share,
        "median_share": float(np.median(share)),
        "ffn_error": error,
        "median_ffn_error": float(np.median(error)),
    }
    sources = [
        block.source if block else np.arange(count)
        for block, count in zip(made, counts, strict=True)
    ]
    config = _config(folder.config, settings, expanded)
    code = (
        resources.files("unmergeable.defences.mergebarrier.custom_code").joinpath(FILE).read_bytes()
    )
    return Conversion(stock, config, {FILE: code}, settings.public(), measured, sources)


def _calibrate(
    folder: ModelFolder,
    layout: Layout,
    plan: FfnPlan,
    data: Sequence[Item],
    values: Callable[[str], npt.NDArray[Any]],
) -> list[Seen]:
    """Runs the stock model with the given weights, in float32."""
    torch = optional("torch")
    runner = ModelRunner.of(folder.local)
    state = {}
    for name, entry in folder.tensors.items():
        if entry.dtype in FORMATS and not name.endswith(UNUSED):
            for own, part in stock_values(layout, name, np.asarray(values(name))):
                state[own] = torch.from_numpy(part.astype(np.float32))
    runner.load_state(state)
    prefix = runner.model.base_model_prefix
    trunk = f"{prefix}." if hasattr(runner.model, prefix) else ""
    return calibrate(runner, [plan.block(layer, trunk) for layer in range(plan.layers)], data)


def _config(
    stock: Mapping[str, Any], settings: BarrierSettings, expanded: list[int]
) -> dict[str, Any]:
    """config.json of the protected folder.

    Its model type is new, so that no stock class is chosen for it by mistake.
    """
    model_class = stock["architectures"][0]
    stem, head = _CLASS.fullmatch(model_class).groups()  # type: ignore[union-attr]
    code = f"{FILE.removesuffix('.py')}.{PREFIX}"
    auto = {"AutoConfig": f"{code}{stem}Config", "AutoModel": f"{code}{stem}Model"}
    if head == "LMHeadModel":
        auto["AutoModelForCausalLM"] = code + model_class
    elif head != "Model":
        auto[f"AutoModel{head}"] = code + model_class
    section = {
        "what": TITLE,
        "model_type": stock["model_type"],
        "order": settings.order,
        "clamp": settings.clamp,
        "expanded": expanded,
    }
    return {
        **stock,
        "model_type": f"{SECTION}_{stock['model_type']}",
        "architectures": [PREFIX + model_class],
        "auto_map": auto,
        SECTION: section,
    }
