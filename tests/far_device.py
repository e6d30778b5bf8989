"""A device of its own on the CPU: it computes what the CPU does, and mixes with nothing of the CPU.

torch has a device named "lazy" that nobody uses. Tensors here say that they are on it, hold one of
the CPU, and refuse what an accelerator refuses: arithmetic with a tensor of the CPU, and NumPy.
Copies are made by `.to` and `.cpu()` alone, and counted.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from unmergeable.executors.executor import Inline
from unmergeable.merging import mergekit_bridge, task_vectors
from unmergeable.models import device

DEVICE = torch.device("lazy")
# A single number may come from the CPU, and so may indices of whole numbers into a tensor.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class FarTensor(torch.Tensor):
    """A tensor on the far device."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"FarTensor({self.held!r})"

    def unsqueeze_(self, dim):  # changes a shape in place, and a wrapper has one of its own
        self.held = self.held.unsqueeze(dim)
        self.data = FarTensor(self.held)
        return self

    def tolist(self):  # as an accelerator does; torch refuses it for subclasses
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, Counter())


class _Far(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.is_inference_mode_enabled():  # composed operations come in one piece there
            with self:
                whole = func.decompose(*args, **kwargs or {})
            if whole is not NotImplemented:
                return whole
        return _run(func, args, kwargs or {}, self.seen)


def _run(func, args, kwargs, seen):
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    away = [isinstance(x, FarTensor) for x in given]
    name, out_far = func.overloadpacket._qualified_op_name, any(away)
    if name == "aten::_local_scalar_dense":
        return func(given[0].held if away[0] else given[0])
    if kwargs.get("device") is not None:
        out_far = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
        if given:
            seen["to the device" if out_far else "to the host"] += 1
    elif name == "aten::copy_":
        out_far = away[0]
    elif out_far and name not in _INDEXING and any(x.dim() for x in given if _held(x) is x):
        raise RuntimeError(f"{name}: expected all tensors to be on one device, and one is not")
    seen["far" if out_far else "near"] += 1
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    same = {id(_held(x)): x for x in given}

    def placed(x):
        if not isinstance(x, torch.Tensor):
            return x
        return same.get(id(x)) if id(x) in same else FarTensor(x) if out_far else x

    return tree_map(placed, out)


def far(state):
    """A state on the far device."""
    return {name: tensor.to(DEVICE) for name, tensor in state.items()}


def _held(x):
    return x.held if isinstance(x, FarTensor) else x


@contextmanager
def far_device(monkeypatch):
    """Models inside run on the far device; yields counts of what was computed and copied where."""
    named = device.device_named
    monkeypatch.setattr(
        device, "device_named", lambda name: DEVICE if name in ("far", "lazy") else named(name)
    )
    autocast = torch.autocast  # of which the device has none

    def cast(device_type, *args, **more):
        kind = torch.device(device_type).type
        return nullcontext() if kind == DEVICE.type else autocast(device_type, *args, **more)

    make = torch.tensor

    def tensor(data, *, device=None, **more):  # torch's own goes past modes
        away = device is not None and torch.device(device).type == DEVICE.type
        return make(data, **more).to(device) if away else make(data, device=device, **more)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "autocast", cast)
    adamw = torch.optim.AdamW  # whose fused steps are for devices that torch knows
    monkeypatch.setattr(torch.optim, "AdamW", lambda given, fused, **more: adamw(given, **more))
    for module in (mergekit_bridge, task_vectors):  # a mode is one thread's
        monkeypatch.setattr(module, "ThreadPoolExecutor", lambda count: Inline())
    with _Far() as mode:
        yield mode.seen
