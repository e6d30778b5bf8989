"""Models of an audit in the base's own shapes, as a thief brings them there before he merges.

An expert may have more words, labels or positions than its base, or fewer. What both have is
compared and merged; where a model lacks something that the base has, the base's own stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.distances import REACH
from unmergeable.attacks.alignment.pairing import shared_tensors
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError, quoted
from unmergeable.gauge.floats import FORMATS
from unmergeable.models.weights import Weights

if TYPE_CHECKING:
    import torch

_FLOATS = {*FORMATS, "F64"}


def check_fits(layout: Layout, base: ModelFolder, folder: ModelFolder) -> None:
    """Refuses a model that cannot be brought into the base's shapes.

    Args:
        layout: of the base.
        base: the public base.
        folder: another model of the audit.

    Raises:
        InputError: a tensor that one of them lacks, one of another shape where more than words,
            labels or positions differ, or one stored as whole numbers; says which, and what to do.
    """
    for name in sorted(base.shapes.keys() ^ folder.shapes.keys()):
        have, want = (one.shapes.get(name, "absent") for one in (folder, base))
        raise InputError(
            f"{folder.path} and {base.path} cannot be merged: {quoted(name)} is {have} in one and "
            f"{want} in the other. Give the audit models with the base's tensors: a tied one "
            "(tie_word_embeddings) must be stored as the base stores it, and a quantised model "
            "be dequantised."
        )
    for name, entry in folder.tensors.items():
        if base.tensors[name].dtype in _FLOATS and not _is_float(entry.dtype):
            raise InputError(
                f"{folder.path} stores {quoted(name)} as {entry.dtype}, and the base as "
                f"{base.tensors[name].dtype}: whole numbers are no weights that a merge can take. "
                "Dequantise the model first."
            )
    if folder.shapes != base.shapes:
        try:
            shared_tensors(layout, folder, base)
        except InputError as error:
            raise InputError(
                f"{error} Only the numbers of words, labels and positions may differ: give models "
                "of one architecture."
            ) from None


def _is_float(dtype: str) -> bool:
    return dtype in _FLOATS or dtype.startswith("F8")


def fitted(weights: Weights, base: Mapping[str, torch.Tensor]) -> Weights:
    """A model's tensors in the base's shapes; see the module.

    Args:
        weights: of a model that `check_fits` lets pass.
        base: the base's tensors by name.
    """
    return Weights({name: _fitted(one, base[name]) for name, one in weights.tensors.items()})


def _fitted(own: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    if own.shape == base.shape:
        return own
    common = tuple(slice(min(pair)) for pair in zip(own.shape, base.shape, strict=True))
    made = base.to(own.device, copy=True)
    made[common] = own[common]
    return made


def tamed(weights: Weights, base: Mapping[str, torch.Tensor]) -> tuple[Weights, dict[str, float]]:
    """The model with the base's numbers in place of those that no fine-tuning makes.

    Infinities, NaN and numbers beyond `REACH` stand where no input reaches, or the model would not
    work: a merge moves them to where one does. A thief sees them at a glance.

    Args:
        weights: of the aligned model, in the base's shapes.
        base: the base's tensors by name.

    Returns:
        The model, and by tensor the squared norm of the base's numbers that went in, if any did:
        what is not known of its distance to the base.
    """
    found: dict[str, torch.Tensor] = {}
    unknown: dict[str, float] = {}
    for name, own in weights.tensors.items():
        if not own.is_floating_point() or not own.numel():
            found[name] = own
            continue
        anchor = base[name].to(own.device)
        limit = REACH * anchor.abs().max()
        wild = ~(own.abs() <= limit)
        if wild.any():
            unknown[name] = float(anchor[wild].double().square().sum())
            own = anchor.where(wild, own)
        found[name] = own
    return Weights(found), unknown
