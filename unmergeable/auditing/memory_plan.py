"""How much memory an audit takes, by the model's size; what does not fit is said before it starts.

Every model is in float32. Merging and scoring hold one merge, its linear layers in bfloat16, and
what a merge method works with; the models that are merged lie in temporary files, four bytes a
parameter each. An attack that trains holds weights, gradients and two moments, a teacher, and a
snapshot. Both figures are peaks of audits of SmolLM2-135M on a CPU (`benchmarks/audit_time.py`),
less what libraries take; they grow with the parameters, and nothing was measured beyond that size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmergeable.errors import InputError
from unmergeable.machine import available_memory
from unmergeable.models.device import free_memory

if TYPE_CHECKING:
    import torch

SCORING = 12  # bytes a parameter where models run
TRAINING = 28
HOST = 8  # on the host beside an accelerator: the base, and a model being read
FIXED = 750_000_000  # libraries, and the inputs of a batch
_GB = 1e9


def check(device: torch.device, parameters: int) -> None:
    """Refuses an audit that would run out of memory.

    Args:
        device: where models are to run.
        parameters: of one model.

    Raises:
        InputError: says what it takes, and what there is.
    """
    if told := _short(device, parameters, SCORING, free_memory(device)):
        raise InputError(f"an audit of this model {told}. Use a larger device, or a smaller model.")
    if device.type == "cpu":
        return
    if told := _short("this machine", parameters, HOST, available_memory()):
        raise InputError(f"an audit of this model {told} of main memory. Stop something else.")


def training_lacks(device: torch.device, parameters: int) -> str:
    """Why an attack cannot train a model of this size here; empty if it can."""
    return _short(device, parameters, TRAINING, free_memory(device))


def check_processes(parameters: int, processes: int) -> None:
    """Refuses more processes on this machine than fit.

    Args:
        parameters: of one model.
        processes: how many, each with models of its own.

    Raises:
        InputError: there is too little memory; says how many fit.
    """
    each, there = needed(parameters, TRAINING), available_memory()
    if processes * each > there:
        raise InputError(
            f"{processes} workers need about {processes * each / _GB:.1f} GB of memory, "
            f"{each / _GB:.1f} GB each, and {there / _GB:.1f} GB are available: so {there // each} "
            "fit. Stop something else, or use fewer workers (--workers)."
        )


def needed(parameters: int, each: int) -> int:
    """Bytes for a model of this many parameters."""
    return parameters * each + FIXED


def _short(where: object, parameters: int, each: int, there: int) -> str:
    need = needed(parameters, each)
    if need <= there:
        return ""
    return f"needs about {need / _GB:.1f} GB on {where}, which has {there / _GB:.1f} GB free"
