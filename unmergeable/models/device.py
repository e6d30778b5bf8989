"""Where models run: the one place that chooses a device.

A public function that runs models takes `device`, and does its work inside `running_on(device)`;
whatever loads a model inside asks `current()`. Tensors follow the model: see `ModelRunner`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError, clip
from unmergeable.extras import optional
from unmergeable.machine import available_memory

if TYPE_CHECKING:
    import torch

AUTO = "auto"
# As users type them; a number chooses among several of a kind.
DEVICES = ("auto", "cpu", "cuda", "mps")
_MESSAGE = 200  # characters of another library's error
_chosen: ContextVar[str] = ContextVar("device", default=AUTO)


@contextmanager
def running_on(name: str) -> Iterator[torch.device]:
    """Everything inside that loads a model runs it on this device.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        InputError: a device that is not there.

    Examples:
        >>> with running_on("cpu") as device:
        ...     device.type
        'cpu'
    """
    device = device_named(name)
    before = _chosen.set(name if name == AUTO else str(device))
    try:
        yield device
    finally:
        _chosen.reset(before)


def current() -> torch.device:
    """The device to run models on: the chosen one, by default the first accelerator or the CPU."""
    return device_named(_chosen.get())


def chosen() -> str:
    """What was asked for, such as "auto"; for processes that work for this one."""
    return _chosen.get()


def device_named(name: str) -> torch.device:
    """The device that a user means.

    Args:
        name: see `running_on`.

    Raises:
        InputError: no such device here; says what there is, or why it cannot be used.
    """
    torch: Any = optional("torch")
    if name == AUTO:
        name = next((kind for kind in ("cuda", "mps") if _kinds(torch)[kind].is_available()), "cpu")
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in DEVICES[1:] or (":" in name and not (number.isdecimal() and kind == "cuda")):
        raise InputError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:N or mps.")
    if kind != "cpu" and not _kinds(torch)[kind].is_available():
        raise InputError(f"device {name} cannot be used: {_reason(torch, kind)}. Use cpu or auto.")
    if int(number or 0) >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise InputError(f"device {name} is not there: this machine has {there}.")
    return torch.device(name)  # type: ignore[no-any-return]


def placed(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs where a model is; one that is offloaded moves them itself."""
    device = next(model.parameters()).device
    if device.type == "meta":
        return dict(inputs)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is several times as slow."""
    torch: Any = optional("torch")
    if device.type == "cpu":
        return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    if device.type == "cuda":
        on_card: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return on_card
    autocast: bool = torch.amp.is_autocast_available(device.type)
    return autocast


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device; of one that shares the machine's memory, of that."""
    torch = optional("torch")
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return available_memory()


def is_short_of_memory(error: Exception) -> bool:
    """Whether memory ran out: another time, or elsewhere, the same work may be done."""
    return isinstance(error, MemoryError | optional("torch").OutOfMemoryError)


def is_lost(error: Exception) -> bool:
    """Whether a device failed, after which nothing can be done there in this process."""
    return isinstance(error, optional("torch").AcceleratorError)


def title(device: torch.device) -> str | None:
    """What an accelerator is called, by its maker where that is known; None for the CPU."""
    torch = optional("torch")
    if device.type == "cpu":
        return None
    return (
        f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else str(device)
    )


def _kinds(torch: Any) -> dict[str, Any]:
    return {"cuda": torch.cuda, "mps": torch.backends.mps}


def _reason(torch: Any, kind: str) -> str:
    """Why there is no accelerator of a kind, as the library tells."""
    if kind == "mps":
        return "this machine has no GPU of Apple's, or this torch was built without it"
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built for the CPU alone"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return clip(" ".join(str(error).split()), _MESSAGE).rstrip(".")
    return "no driver or no GPU was found"
